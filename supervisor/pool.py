"""The pool: admits jobs, queues them, and gives each to a worker, or to another if that one dies.

A twenty-line example, complete but for the model, which any module may hold::

    # toy.py
    class Toy:
        def run(self, request, spool):
            yield  # one step done: the worker looks whether the job is still wanted
            return {"shout": request["say"].upper(), "bytes": len(spool.read())}

    def load():
        return Toy()

    # main.py
    import asyncio
    from supervisor import Pool, PoolSettings, SpoolStore, Target

    async def main():
        async with Pool(Target("toy", import_path=(".",)), PoolSettings(workers=2)) as pool:
            await pool.wait_ready()
            async with SpoolStore().open() as spool:
                await spool.write(b"12345")
                result = await pool.run({"say": "hello"}, spool)
            print(result.value)  # {'shout': 'HELLO', 'bytes': 5}

    asyncio.run(main())
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from supervisor.contract import LoadRefused
from supervisor.deaths.death import Cause
from supervisor.deaths.history import DeathRecord
from supervisor.dispatch.admission import Admission, Admissions
from supervisor.dispatch.dispatcher import Dispatcher
from supervisor.dispatch.retries import closing
from supervisor.dispatch.stream import Stream
from supervisor.dispatch.streams import Streams
from supervisor.guard.guard import Guard
from supervisor.guard.refusal import Ask
from supervisor.job import JobResult
from supervisor.processes.forkserver_handle import ForkServerLost
from supervisor.settings import Headroom, MemorySettings, PoolSettings, TargetSource
from supervisor.spool import JobInput, SpoolStore
from supervisor.status import PoolStatus, read_status


class Pool:
    """Runs jobs on a fixed number of forked workers that share one loaded model.

    Use as `async with`; entering returns at once, while the model loads (see `wait_ready`).
    """

    def __init__(
        self,
        target: TargetSource,
        settings: PoolSettings | None = None,
        spools: SpoolStore | None = None,
        guard: Guard | None = None,
        sound: Callable[[], Awaitable[bool]] | None = None,
        measure: Callable[[Any], float] | None = None,
        memory: MemorySettings | None = None,
    ) -> None:
        """Create a pool.

        `spools`: the store of the inputs, if their memory is to be limited, too. `guard`: a guard
        that several pools share and that is entered already; without it the pool has its own.
        `sound`: called after a worker has crashed, before its work runs again; returns whether the
        files of the model are intact. If not, the target source is called and the model loaded
        again. `measure`: returns the size in units that a result reports, for callers that only
        know what the input claims. `memory`: settings of the pool's own guard.
        """
        self.settings = settings or PoolSettings()
        assert guard is None or memory is None, "a guard has memory settings of its own"
        self._guard = guard or Guard(memory, spools)
        self._guard_is_mine = guard is None
        self._dispatcher = Dispatcher(target, self.settings, self._guard, sound, measure)
        self._lifecycle = self._dispatcher.lifecycle
        self._scheduler = self._dispatcher.scheduler
        self._streams = self._dispatcher.streams
        self._admissions = Admissions(self.settings, self._guard, self._dispatcher)

    async def __aenter__(self) -> "Pool":
        if self._guard_is_mine:
            await self._guard.__aenter__()
        self._guard.join(self._scheduler)
        self._dispatcher.begin()
        await self._lifecycle.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._admissions.draining = True
        self._dispatcher.close()
        try:
            await self._dispatcher.end()
            await self._lifecycle.__aexit__(*exception)
        finally:
            self._guard.leave(self._scheduler)
            if self._guard_is_mine:
                await self._guard.__aexit__(*exception)

    async def wait_ready(self) -> None:
        """Wait until a worker is able to take a job."""
        await self._lifecycle.changes.until(lambda: self._lifecycle.unready_reason() is None)

    def unready_reason(self) -> str | None:
        """Explain why no worker is able now; return None if one is."""
        return self._lifecycle.unready_reason()

    async def headroom(self) -> Headroom:
        """Return the memory for a model and its workers, by which a target source may choose."""
        return await self._dispatcher.headroom()

    async def renewed(self) -> str | None:
        """Call `renew`, and wait until it is done; return None, or why it failed."""
        wanted = self._lifecycle.renew()
        await self._lifecycle.changes.until(lambda: self._lifecycle.answered >= wanted)
        return self._lifecycle.not_renewed or self.unready_reason()

    def not_renewed(self) -> str | None:
        """Explain why the last `renew` failed; return None if it did not, or there was none."""
        return self._lifecycle.not_renewed

    def renew(self) -> None:
        """Call the target source again, load its target beside the model that serves, and move over
        to it worker by worker, without losing a job. If it cannot be loaded, nothing changes.

        Without enough memory for both (`Target.needs`), the model that serves is unloaded first.
        """
        self._lifecycle.renew()

    def hopeless(self) -> bool:
        """Return whether no worker is able, and none will be within milliseconds."""
        return self._lifecycle.hopeless()

    def failed(self) -> bool:
        """Return whether loading has failed at least once, and no worker is able."""
        return self._lifecycle.load_failures > 0 and self.unready_reason() is not None

    async def loaded_or_failed(self) -> str | None:
        """Wait until a worker is able (None), or loading has failed (return why)."""
        await self._lifecycle.changes.until(lambda: self.unready_reason() is None or self.failed())
        return self.unready_reason()

    def load_death(self) -> DeathRecord | None:
        """Return how the last loading fork server ended, if it ended before its model was loaded:
        for a target source, which may then choose another form."""
        error = self._lifecycle.load_error
        death = error.death if isinstance(error, ForkServerLost) else None
        return None if death is None else self._guard.history.record(death)

    def load_refused(self) -> bool:
        """Return whether the last load was refused (`LoadRefused`): that says nothing about the
        model or its form, and it is not repeated until `renew` is called."""
        return isinstance(self._lifecycle.load_error, LoadRefused)

    def report(self) -> dict[str, Any]:
        """Return what the loaded model reports about itself; empty if there is none."""
        return self._lifecycle.report()

    @property
    def deaths(self) -> dict[Cause, int]:
        """Number of its processes that have ended, by cause."""
        return dict(self._lifecycle.deaths.by_cause)

    def load_times(self) -> tuple[float, float] | None:
        """Return the seconds that loading and warming took; None while no model is loaded."""
        loaded = self._lifecycle.loaded()
        return (loaded.load_s, loaded.warm_s) if loaded else None

    def watched(self) -> bool:
        """Return whether the pool's own tasks run, and the guard has looked recently."""
        return self._lifecycle.alive() and self._dispatcher.alive() and self._guard.alive()

    def recycle(self, slot: int, reason: str = "an operator asked for it") -> list[int]:
        """Replace the workers of this slot, after their jobs; return their pids."""
        workers = [w for w in self._lifecycle.workers if w.slot == slot and w.running]
        for worker in workers:
            worker.recycle(reason)
        return [worker.pid for worker in workers]

    async def drain(self, timeout_s: float) -> bool:
        """Take no new jobs, ask the streams to end, and wait for all that are inside; return
        whether all were done in time."""
        self._admissions.draining = True
        self.end_streams()
        try:
            async with asyncio.timeout(timeout_s):
                await self._lifecycle.changes.until(lambda: not self._admissions.inside)
        except TimeoutError:
            return False
        return True

    def admit(
        self,
        *,
        units: float | None = None,
        input_bytes: int | None = None,
        deadline_s: float | None = None,
        stream: bool = False,
        client: str | None = None,
    ) -> AbstractContextManager[Admission]:
        """Take a slot for one job, before its input is read.

        Everything known about the job helps to refuse it now rather than fail it later: its size in
        `units` of the caller's choice (always the same, such as seconds of audio), the bytes that
        will be spooled, and the seconds within which its answer is needed. `stream`: a job without
        a known end. `client`: its owner; a client that sends much does not keep others waiting.

        Raises `Draining`, `NotReady`, `QueueFull`, `MemoryPressure`, `ResourceExhausted` or
        `TooLarge` at once rather than wait.
        """
        return self._admissions.take(Ask(units, input_bytes, deadline_s, stream), client)

    @contextlib.contextmanager
    def stream(self, *, request_id: str | None = None) -> Iterator[Stream]:
        """Admit a stream, which ends with the block; call `Stream.begin` to start it. Any able
        worker carries it, and another one if that ends. Raises what `admit` raises, and `QueueFull`
        if other streams would be late because of it."""
        with self.admit(stream=True), self._open_stream(request_id) as stream:
            yield stream

    @contextlib.contextmanager
    def background_stream(self, *, request_id: str | None = None) -> Iterator[Stream]:
        """Open a stream that is part of a job: it needs no slot beside that job's, and gets steps
        when its worker has nothing else to do, so that no stream and no other job waits for it."""
        if self._dispatcher.closed:
            raise closing()
        with self._open_stream(request_id, background=True) as stream:
            yield stream

    @contextlib.contextmanager
    def _open_stream(self, request_id: str | None, *, background: bool = False) -> Iterator[Stream]:
        stream = Stream(
            self._dispatcher.next_number(),
            self.settings.streams,
            request_id,
            self._streams.schedule,
            self._streams.keep_within,
            self._guard.clock,
            background=background,
        )
        try:
            self._streams.add(stream)
            yield stream
        finally:
            self._streams.remove(stream)

    @property
    def admitted(self) -> int:
        """Number of jobs that are inside, without streams."""
        return len(self._admissions.inside) - len(self._streams)

    @property
    def waiting(self) -> int:
        """Number of admitted jobs that wait for a worker."""
        return len(self._scheduler.queue)

    def end_streams(self) -> None:
        """Ask the open streams to come to their end."""
        for stream in self._streams.all:
            stream.ending.set()

    @property
    def streams(self) -> Streams:
        """Streams that are open."""
        return self._streams

    async def run(
        self,
        request: dict[str, Any],
        spool: JobInput | None = None,
        *,
        units: float | None = None,
        timeout_s: float | None = None,
        on_progress: Callable[[Any], None] | None = None,
    ) -> JobResult:
        """Admit and run one job. Raises what `admit` and `Admission.run` raise."""
        size = None if spool is None else spool.size
        with self.admit(units=units, input_bytes=size, deadline_s=timeout_s) as admission:
            return await admission.run(request, spool, timeout_s=timeout_s, on_progress=on_progress)

    def status(self) -> PoolStatus:
        """Return a reading of the whole pool."""
        return read_status(
            self._lifecycle,
            self._guard,
            draining=self._admissions.draining,
            admitted=self.admitted,
            waiting=self.waiting,
            s_per_unit=self._scheduler.pace.s_per_unit,
        )
