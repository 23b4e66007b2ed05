"""The headers `traceparent` and `tracestate`.

Source: W3C Recommendation "Trace Context", level 1.
"""

import re
import secrets
from dataclasses import dataclass, replace

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[\x20-\x7e\t]{1,512}")
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace. Ids in lower-case hexadecimal: 32 and 16 digits; `state`: what others
    have to say of the trace, which is passed on as it is."""

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""

    @property
    def sampled(self) -> bool:
        """Whoever began it keeps it."""
        return bool(self.flags & _SAMPLED)

    @property
    def traceparent(self) -> str:
        """The header's value."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags & _SAMPLED:02x}"

    def child(self) -> "TraceContext":
        """A new place below it."""
        return replace(self, span_id=secrets.token_hex(8))

    def headers(self) -> dict[str, str]:
        """For a request to somebody else."""
        headers = {"traceparent": self.traceparent}
        if self.state:
            headers["tracestate"] = self.state
        return headers


def incoming_context(traceparent: str | None, tracestate: str = "") -> TraceContext | None:
    """Of a request's headers; None where there is none, or none that is valid."""
    found = _TRACEPARENT.fullmatch((traceparent or "").strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) * int(span_id, 16):
        return None
    state = tracestate.strip()
    return TraceContext(
        trace_id, span_id, int(flags, 16), state if _TRACESTATE.fullmatch(state) else ""
    )
