"""`modelserver` with streams and events that break in the middle, by an unexpected error."""

from typing import Any

from modelserver.__main__ import main
from modelserver.http.events import EventStream
from modelserver.live.websockets import LiveSocket

_next_message = LiveSocket.next_message


async def next_message(self: LiveSocket) -> Any:
    """Receive one that is not text."""
    message = await _next_message(self)
    if isinstance(message.data, str):
        raise LookupError("broken for the test")
    return message


async def send_large(self: EventStream, event: str | None, document: object) -> None:
    """Fail to send the last event."""
    raise LookupError("broken for the test")


LiveSocket.next_message = next_message  # type: ignore[method-assign]
EventStream.send_large = send_large  # type: ignore[method-assign]
main()
