"""`modelserver` with streams and events that break in the middle, by an unexpected error."""

from typing import Any

from modelserver.__main__ import main
from modelserver.http.events import EventStream
from modelserver.live.websockets import LiveSocket

_next_message, _send = LiveSocket.next_message, EventStream.send


async def next_message(self: LiveSocket) -> Any:
    """Receive one that is not text."""
    message = await _next_message(self)
    if isinstance(message.data, str):
        raise LookupError("broken for the test")
    return message


async def send(self: EventStream, event: str | None, document: object) -> None:
    """Send one that is not the last."""
    if event == "done":
        raise LookupError("broken for the test")
    await _send(self, event, document)


LiveSocket.next_message = next_message  # type: ignore[method-assign]
EventStream.send = send  # type: ignore[method-assign]
main()
