"""Timestamps: one format in answers, webhooks and logs."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec

Timestamp = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
"""Time as text (RFC 3339): UTC, always with six digits of a second, so that texts sort by time."""


def timestamp(unix_s: float) -> Timestamp:
    """Return `unix_s`, a Unix time, as text: `timestamp(0)` is 1970-01-01T00:00:00.000000Z."""
    moment = datetime.fromtimestamp(unix_s, UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
