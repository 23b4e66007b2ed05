"""Machines of a Ray cluster, each with a pool of its own: `transcribe --on ray`.

One actor on each machine runs the same pool as a local `transcribe` (`OwnPool`): its fork server,
its workers, its guard. Ray reports which machines there are and which are lost; a file whose
machine is lost is given to another one.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import click
import msgspec
import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from modelserver.batch.engine import Engine
from modelserver.batch.errors import EngineUnusable, NotTranscribed
from modelserver.batch.files import STDIN
from modelserver.batch.journal import Note, stamp_of
from modelserver.batch.own_pool import OwnPool
from modelserver.batch.remote import is_url
from modelserver.logs import configure_logs
from modelserver.serving.sizing import AT_ONCE_EACH
from modelserver.settings import Settings
from modelserver.speech.messages import Speech, SpeechRequest
from supervisor import counted

_AT_ONCE = 10_000
"""Files in progress: the engine itself bounds how many are on their way."""
_LOOK_S = 2.0
_LOST_AT_MOST = 3
"""Machines that may be lost while they have a file, before the file is considered the cause."""
_NONE_LEFT_S = 60.0
"""Seconds to wait for a machine, once there was one."""
_SENT_WHOLE_BYTES = 2 << 30
_ANSWER_S = 10.0


class _Said(msgspec.Struct):
    """Answer of an actor: a transcript, the reason why there is none, or (neither) a request to
    send the file."""

    speech: Speech | None = None
    error: str | None = None


class Machine:
    """Ray actor that runs on each machine."""

    def __init__(self, settings: Settings, asked: SpeechRequest) -> None:
        configure_logs(msgspec.structs.replace(settings.log, level="warning"))
        self._pool = OwnPool(settings, asked)

    async def begin(self) -> int:
        """Load the model; return the number of its workers. Raises `EngineUnusable`."""
        await self._pool.__aenter__()
        return self._pool.at_once

    async def transcribe(
        self, file: str, stamp: str, expected_s: float, content: bytes | None
    ) -> bytes:
        """Transcribe a file; return an encoded `_Said`. `content`: that of the file, if this
        machine does not have the same file."""
        try:
            if content is not None:
                speech = await self._pool.transcribe_bytes(content, expected_s)
            elif is_url(file) or (stamp and stamp_of(file) == stamp):
                speech = await self._pool.transcribe(file, expected_s, None, _ignore)
            else:
                return msgspec.msgpack.encode(_Said())
        except (NotTranscribed, EngineUnusable, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            return msgspec.msgpack.encode(_Said(error=reason or str(error)))
        return msgspec.msgpack.encode(_Said(speech))

    async def end(self) -> None:
        """End its processes."""
        await self._pool.__aexit__()


def _ignore(_: float) -> None:
    """Ignore progress: the caller is on another machine."""


@dataclass(eq=False)
class _There:
    """Machine, as the caller knows it."""

    name: str
    actor: Any
    slots: int = 0
    running: int = 0
    done: int = 0
    lost: bool = False
    problem: str = ""
    beginning: "asyncio.Task[None] | None" = field(default=None, repr=False)


class RayMachines(Engine):
    """Engine of many machines: this one alone if there is no address and Ray knows none."""

    def __init__(self, settings: Settings, asked: SpeechRequest, address: str | None) -> None:
        self._settings, self._asked, self._address = settings, asked, address
        self._machines: dict[str, _There] = {}
        self._changed = asyncio.Condition()
        self._looking: asyncio.Task[None] | None = None
        self.at_once = _AT_ONCE
        self.lost = 0
        """Number of machines that were lost."""

    async def __aenter__(self) -> "RayMachines":
        try:
            await asyncio.to_thread(self._connect)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise EngineUnusable(f"Ray: {reason or error}") from error
        try:
            self._look()
            async with self._changed:
                await self._changed.wait_for(lambda: self._any_ready() or self._all_failed())
            if not self._any_ready():
                problems = {one.problem for one in self._machines.values()}
                raise EngineUnusable("; ".join(sorted(problems)) or "Ray has no machine")
        except BaseException:
            await self.__aexit__()
            raise
        self._looking = asyncio.create_task(self._keep_looking())
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for one in self._machines.values():
            if one.beginning is not None:
                one.beginning.cancel()
        ends = [one.actor.end.remote() for one in self._machines.values() if not one.lost]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.gather(*ends, return_exceptions=True)
        await asyncio.to_thread(ray.shutdown)

    async def transcribe(
        self, file: str, expected_s: float, note: Note | None, moved: Callable[[float], None]
    ) -> Speech:
        """See `Engine`."""
        stamp = await asyncio.to_thread(stamp_of, file)
        content: Any = None
        if file == STDIN:
            content = ray.put(await asyncio.to_thread(sys.stdin.buffer.read))
        lost = 0
        while True:
            machine = await self._machine_with_room()
            try:
                answer = await machine.actor.transcribe.remote(file, stamp, expected_s, content)
            except RayActorError:
                self._lose(machine)
                lost += 1
                if lost >= _LOST_AT_MOST:
                    raise NotTranscribed(
                        f"{counted(lost, 'machine')} that had it, one after the other, ended"
                    ) from None
                continue
            except RayError as error:
                raise NotTranscribed(f"Ray: {error}") from error
            finally:
                await self._leave(machine)
            said = msgspec.msgpack.decode(answer, type=_Said)
            if said.speech is not None:
                machine.done += 1
                return said.speech
            if said.error is not None:
                raise NotTranscribed(said.error)
            content = await asyncio.to_thread(_put, file)

    def summary(self) -> str:
        """Return how many files each machine has done."""
        each = ", ".join(f"{one.name} {one.done}" for one in self._machines.values() if one.done)
        gone = f"; {self.lost} lost" if self.lost else ""
        used = sum(bool(one.done) for one in self._machines.values())
        return f"on {counted(used, 'machine')} ({each}){gone}"

    # --- machines -------------------------------------------------------------------------------

    def _connect(self) -> None:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if self._address is not None:
            _must_answer(self._address)
        ray.init(
            address=self._address,
            include_dashboard=None if self._address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )

    def _look(self) -> None:
        """Start on machines that have come."""
        for node in cast("Any", ray).nodes():
            known = self._machines.get(node["NodeID"])
            cpus = int(node["Resources"].get("CPU", 0))
            if not node["Alive"] or not cpus:
                if known is not None:
                    self._lose(known)
                continue
            if known is None:
                self._begin(node, cpus)

    def _begin(self, node: dict[str, Any], cpus: int) -> None:
        settings = self._settings
        workers = min(settings.workers.count or cpus, cpus)
        memory = int(node["Resources"].get("memory", 0))
        if settings.memory.limit != "auto":
            memory = min(memory, settings.memory.limit) if memory else settings.memory.limit
        settings = msgspec.structs.replace(
            settings,
            workers=msgspec.structs.replace(settings.workers, count=workers),
            # The memory that Ray counts as this machine's is all that may be used.
            memory=msgspec.structs.replace(settings.memory, limit=memory or "auto"),
        )
        actor = (
            ray.remote(Machine)
            .options(
                num_cpus=workers,
                memory=memory or None,
                max_concurrency=AT_ONCE_EACH * workers + 2,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
            )
            .remote(settings, self._asked)
        )
        there = _There(node["NodeManagerAddress"], actor)
        self._machines[node["NodeID"]] = there
        there.beginning = asyncio.create_task(self._wait_for(there))

    async def _wait_for(self, there: _There) -> None:
        try:
            there.slots = await there.actor.begin.remote()
        except RayActorError as error:
            there.lost, there.problem = True, f"{there.name}: {error}"
        except RayError as error:
            cause = getattr(error, "cause", None) or error
            there.lost, there.problem = True, f"{there.name}: {cause}"
        async with self._changed:
            self._changed.notify_all()

    async def _keep_looking(self) -> None:
        since = time.monotonic()
        while True:
            await asyncio.sleep(_LOOK_S)
            with contextlib.suppress(RayError):
                self._look()
            if self._any_ready():
                since = time.monotonic()
            async with self._changed:
                if time.monotonic() - since > _NONE_LEFT_S:
                    self._machines.clear()
                self._changed.notify_all()

    def _any_ready(self) -> bool:
        return any(one.slots and not one.lost for one in self._machines.values())

    def _all_failed(self) -> bool:
        return all(one.lost for one in self._machines.values())

    def _lose(self, machine: _There) -> None:
        if machine.lost:
            return
        machine.lost = True
        self.lost += 1
        click.echo(f"the machine {machine.name} is lost; its files go to others", err=True)

    async def _machine_with_room(self) -> _There:
        """Return the machine with the most room, once there is one. Raises `EngineUnusable`."""

        def free() -> list[_There]:
            return [
                one
                for one in self._machines.values()
                if not one.lost and one.running < AT_ONCE_EACH * one.slots
            ]

        async with self._changed:
            await self._changed.wait_for(lambda: free() or not self._machines)
            if not self._machines:
                raise EngineUnusable(f"there has been no machine for {_NONE_LEFT_S:g} s")
            best = min(free(), key=lambda one: one.running / one.slots)
            best.running += 1
            return best

    async def _leave(self, machine: _There) -> None:
        machine.running -= 1
        async with self._changed:
            self._changed.notify_all()


def _must_answer(address: str) -> None:
    """Check that an address answers: Ray would end this process without a reason. Raises
    `OSError`."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
        except OSError as error:
            reason = error.strerror or str(error)
            raise OSError(error.errno, f"nothing answers at {address}: {reason}") from error


def _put(file: str) -> Any:
    """Put a file into Ray's object store. Raises `OSError`."""
    path = Path(file)
    if path.stat().st_size > _SENT_WHOLE_BYTES:
        raise OSError(0, f"it is not on the machines, and too large to be sent there ({file})")
    return ray.put(path.read_bytes())
