"""A pool in a process of its own, for tests that put it into a cgroup or give it another user.

Run as a program it reads commands as lines of JSON and writes events and answers the same way.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from running import PATIENCE, until

HERE = Path(__file__).parent


class RemotePool:
    """The tests' side."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._asked = 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            record = json.loads(line)
            if "answer" in record:
                self._answers[record["answer"]] = record
            else:
                self.events.append(record)

    def ask(self, **command: Any) -> int:
        """Send a command; the number is for `answer`."""
        assert self.process.stdin is not None
        self._asked += 1
        self.process.stdin.write(json.dumps({"id": self._asked, **command}) + "\n")
        self.process.stdin.flush()
        return self._asked

    def answer(self, number: int, timeout_s: float = 30.0) -> dict[str, Any]:
        """Wait for the answer: `result`, or `error` (its code) and `message`."""
        answer: dict[str, Any] = until(
            lambda: self._answers.get(number), timeout_s, f"answer {number}"
        )
        return answer

    def run(self, timeout_s: float = 30.0, **request: Any) -> dict[str, Any]:
        """Run one job of the toy."""
        return self.answer(self.ask(run=request), timeout_s)

    def status(self) -> dict[str, Any]:
        """Level and headroom, workers, deaths."""
        status: dict[str, Any] = self.answer(self.ask(status=True))["result"]
        return status

    def event(self, name: str, timeout_s: float = 20.0, **fields: Any) -> dict[str, Any]:
        """Wait for the first event of this name and with these fields."""

        def search() -> dict[str, Any] | None:
            for event in list(self.events):
                if event["event"] == name and fields.items() <= event.items():
                    return event
            return None

        found: dict[str, Any] = until(search, timeout_s, f"event {name} {fields}")
        return found

    def workers(self) -> list[psutil.Process]:
        """Return its workers."""
        return [psutil.Process(pid) for pid in self.status()["pids"]]


@contextlib.contextmanager
def remote_pool(
    before_exec: Callable[[], None] | None = None,
    *,
    workers: int = 2,
    load_bytes: int = 0,
    born_s: float = 0.0,
    wait: bool = True,
    watch: bool = True,
    python: str = sys.executable,
    **memory: int,
) -> Iterator[RemotePool]:
    """A pool of toys; gone at the end. Without `watch` the guard looks once and never again."""
    loading = {"load_bytes": load_bytes, "born_s": born_s}
    options = {"workers": workers, "loading": loading, "memory": memory, "watch": watch}
    process = subprocess.Popen(
        [python, __file__, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=before_exec,
        cwd="/",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    pool = RemotePool(process)
    try:
        if wait:
            pool.event("worker.started")
            pool.event("guard.budget_found")
        yield pool
        assert process.poll() is None, "the supervisor has ended"
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            status = process.wait(20 * PATIENCE)
        finally:
            process.kill()  # a failed test may have left work behind that never ends
        pool.reader.join(5)
        assert process.stdout is not None
        process.stdout.close()
        assert status == 0


async def _serve(options: dict[str, Any]) -> None:
    from supervisor import MemorySettings, Pool, PoolError, PoolSettings, SpoolStore, Target
    from supervisor.guard import guard as guarding
    from supervisor.guard import polling

    if not options["watch"]:
        polling.READ_EVERY_S = polling.READ_AT_REST_EVERY_S = 1e6
        polling.LOOK_EVERY_S = polling.LOOK_AT_REST_EVERY_S = 1e6
        polling.LEAST_INTERVAL_S = polling.LEAST_IF_GROWING_S = polling.LEAST_AT_REST_S = 1e6
    target = Target("toy", "load", options["loading"], import_path=(str(HERE),))
    settings = PoolSettings(workers=options["workers"], queue=1000)
    spools = SpoolStore()
    tasks = set()

    async def do(pool: Pool, command: dict[str, Any]) -> Any:
        if "status" in command:
            status = pool.status()
            seen = status.guard
            assert seen is not None
            return {
                "level": seen.state.level.word,
                "left": seen.left,
                "used": seen.used,
                "pids": [worker.pid for worker in status.workers],
                "states": [worker.state.value for worker in status.workers],
                "growth": {worker.pid: worker.growth_bytes for worker in status.workers},
                "deaths": {cause.value: count for cause, count in status.deaths.items()},
                "helpers": {cause.value: count for cause, count in guard.deaths.items()},
                "last_deaths": [
                    {"sentence": o.death.sentence, "moments": len(o.moments)}
                    for o in status.last_deaths
                ],
                "limits": [seen.limits.limit.bytes, seen.limits.reserve.bytes],
                "thresholds": [seen.limits.pressure_below, seen.limits.critical_below],
                "budget": seen.budget.growth.bytes,
                "spools": [spools.usage().memory_bytes, spools.usage().disk_bytes],
                "cpu_s": sum(os.times()[:2]),
            }
        if "helper" in command:
            program = [sys.executable, "-c", command["helper"], *command["arguments"]]
            async with guard.helper("errand", program, os.environ) as helper:
                async for line in helper.lines():
                    print(json.dumps({"event": "said", "line": line.decode().strip()}), flush=True)
                death = await helper.ended()
            return death and death.cause.value
        if "moments" in command:
            return [
                {
                    "time": round(moment.time, 3),
                    "left": moment.left,
                    "workers": [
                        (p.pid, p.growth, p.unreclaimable)
                        for p in moment.processes
                        if p.role == "worker"
                    ],
                    "helpers": [p.pid for p in moment.processes if p.role == "helper"],
                }
                for moment in guard.history.moments
            ]
        async with spools.open() as spool:
            await spool.write(b"x" * command.get("spool", 0))
            return (await pool.run(command["run"], spool, units=command.get("units"))).value

    async def answer(pool: Pool, command: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"answer": command["id"]}
        try:
            reply["result"] = await do(pool, command)
        except PoolError as error:
            reply |= {"error": error.code, "message": error.message}
            reply["retry_after_s"] = error.retry_after_s
        print(json.dumps(reply, default=str), flush=True)

    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    guard = guarding.Guard(MemorySettings(**options["memory"]), spools)
    async with guard, Pool(target, settings, spools, guard) as pool:
        while line := await lines.readline():
            task = asyncio.create_task(answer(pool, json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


def _print_json(_: Any, __: str, event: dict[str, Any]) -> str:
    return json.dumps(event, default=str)


if __name__ == "__main__":
    import structlog

    structlog.configure(
        processors=[structlog.processors.add_log_level, _print_json],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    asyncio.run(_serve(json.loads(sys.argv[1])))
