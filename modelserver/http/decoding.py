"""JSON from clients, decoded to a known type."""

from typing import TypeVar

import msgspec

from modelserver.refusal import Refusal

T = TypeVar("T")


def decoded(data: bytes | str, kind: type[T], hint: str = "") -> T:
    """Decode `data` as `kind`.

    Raises `Refusal` ("bad_request") for what is not JSON of that kind, however deep it is nested;
    `hint` says what to do instead.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError) as error:
        why = str(error)
    except RecursionError:
        why = "it is nested too deeply"
    raise Refusal("bad_request", f"the JSON cannot be read: {why}{hint}")
