"""Crash checks: after each crash the caller is asked whether the model's files are intact.

The job or stream of the crashed worker waits for the answer: with damaged files it might crash
every worker.
"""

import functools
from collections.abc import Awaitable, Callable

from supervisor.deaths.death import Cause, Death
from supervisor.loop.tasks import Tasks
from supervisor.processes.lifecycle import ProcessLifecycle


class CrashChecks:
    """Asks after each crash of a worker, also of an idle or starting one: damaged files end those,
    too."""

    def __init__(
        self, sound: Callable[[], Awaitable[bool]] | None, lifecycle: ProcessLifecycle, tasks: Tasks
    ) -> None:
        """Prepare the checks. `sound`: see `supervisor.Pool`."""
        self._sound = sound
        self._lifecycle = lifecycle
        self._tasks = tasks

    def due(self, death: Death) -> bool:
        """Return whether a check is needed after this death."""
        return self._sound is not None and death.cause is Cause.CRASH

    def begin(self, resume: Callable[[], object]) -> None:
        """Check, discard the model if it is damaged, then call `resume`."""
        self._tasks.once("what a crash says", functools.partial(self._ask, resume))

    async def _ask(self, resume: Callable[[], object]) -> None:
        assert self._sound is not None
        server = self._lifecycle.live_server()
        try:
            if not await self._sound() and server is self._lifecycle.live_server():
                self._lifecycle.discard("what its model was loaded from is damaged")
        finally:
            resume()
