"""SIMD library for the models that are served: found, or built once in a process that the guard
watches."""

import asyncio
import os
import sys
import time

import structlog

import models
from models.processor import processor_flags
from models.vosk.blas import UnsupportedProcessor
from models.vosk.building import compiler_is_here
from models.vosk.simd import SIMD, SimdLibrary, must_run
from modelserver.settings import Settings
from supervisor import Guard, TargetUnavailable, available_memory, in_units

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")

_BUILDING_BYTES = 256 * 1024 * 1024
"""What the compiler may need, with something to spare (150 MB were seen)."""

_CONSEQUENCE = "the network's products are computed by OpenBLAS, and recognition is slower for it"


class SimdSupply:
    """Looks for the library before each load; tries to build it where it is missing, and says once
    what it comes to."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._building = asyncio.Lock()
        self._told: set[str] = set()

    async def get(
        self, settings: Settings, refused: str | None = None
    ) -> tuple[SimdLibrary | None, str | None]:
        """Return the SIMD library, or why it cannot be used.

        `refused`: why the model cannot be loaded with it. Raises `TargetUnavailable` where the
        settings insist on it.
        """
        try:
            if refused is not None:
                raise models.ModelError("simd_refused", f"the SIMD library is not used: {refused}")
            return await self._simd(settings), None
        except (models.ModelError, UnsupportedProcessor) as error:
            if settings.simd == "on":
                raise TargetUnavailable(f"simd = on: {error}") from error
            if str(error) not in self._told:
                self._told.add(str(error))
                log.warning("simd.unavailable", reason=str(error), consequence=_CONSEQUENCE)
            return None, str(error)

    async def _simd(self, settings: Settings) -> SimdLibrary:
        variant = must_run(processor_flags(), settings.debug.blas)
        async with self._building:
            library = await asyncio.to_thread(SIMD.find, settings.prepared_dir)
            if library is None:
                await self._build(settings)
                library = await asyncio.to_thread(SIMD.find, settings.prepared_dir)
        if library is None:
            raise models.ModelError("no_compiler", "the SIMD library was built, and is not there")
        return SimdLibrary(library, variant)

    async def _build(self, settings: Settings) -> None:
        if not compiler_is_here():
            raise models.ModelError("no_compiler", f"there is no compiler ({SIMD.needs})")
        if (spare := available_memory()) < _BUILDING_BYTES:
            raise models.ModelError(
                "cannot_afford",
                f"it is not built yet: the compiler may need {in_units(_BUILDING_BYTES)}, and "
                f"{in_units(spare)} is available",
            )
        started = time.monotonic()
        command = [sys.executable, "-P", "-m", "models.vosk.simd.build", str(settings.prepared_dir)]
        async with self._guard.helper("SIMD compiler", command, os.environ) as helper:
            death = await helper.ended()
        if death is not None:
            said = helper.said.splitlines()[-1] if helper.said else death.sentence
            raise models.ModelError("no_compiler", said)
        log.info("simd.built", seconds=round(time.monotonic() - started, 1))
