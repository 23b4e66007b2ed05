"""Inputs that ended every worker they met, remembered for a while. A client that sends one again
and again costs two workers, and not two each time."""

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from typing import Any

from supervisor.deaths.death import Death, Fault, whose_fault
from supervisor.job import Job
from supervisor.spool import JobInput

KEEP_S = 600.0
_MOST = 256
_BLOCK_BYTES = 1024 * 1024

Key = tuple[int, bytes]
"""Size of the input, and digest of it and of the request."""


class PoisonInputs:
    """The last few hundred inputs. An input is read only if one of its size is known."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, tuple[float, list[Death]]] = OrderedDict()

    async def deaths_by(self, job: Job) -> list[Death]:
        """Return the recent deaths of workers by the same input; empty for an unknown one."""
        spool = job.spool
        self._forget_old()
        if spool is None or all(size != spool.size for size, _ in self._known):
            return []
        known = self._known.get(await _key(job.request, spool))
        return known[1] if known is not None else []

    async def remember(self, job: Job, deaths: list[Death]) -> bool:
        """Remember the job's input by the `deaths` of workers that it ended; return False if it was
        not at fault."""
        spool = job.spool
        own_fault = all(whose_fault(death) is Fault.INPUT for death in deaths)
        if spool is None or not spool.size or not own_fault:
            return False
        self._known[await _key(job.request, spool)] = time.monotonic() + KEEP_S, deaths
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return True

    def _forget_old(self) -> None:
        now = time.monotonic()
        while self._known:
            key, (until, _) = next(iter(self._known.items()))
            if until > now:
                return
            del self._known[key]


async def _key(request: dict[str, Any], spool: JobInput) -> Key:
    # A descriptor of our own: the caller may be cancelled meanwhile, and close the other.
    descriptor = os.dup(spool.fileno())
    asked = repr(sorted(request.items())).encode()
    size = spool.size
    loop = asyncio.get_running_loop()
    # Shielded: the thread closes the descriptor even if the caller is cancelled before it starts.
    return size, await asyncio.shield(loop.run_in_executor(None, _digest, descriptor, size, asked))


def _digest(descriptor: int, size: int, asked: bytes) -> bytes:
    """Return the digest of a descriptor's content, and close the descriptor."""
    try:
        digest, at = hashlib.blake2b(asked, digest_size=16), 0
        while at < size and (block := os.pread(descriptor, _BLOCK_BYTES, at)):
            digest.update(block)
            at += len(block)
        return digest.digest()
    finally:
        os.close(descriptor)
