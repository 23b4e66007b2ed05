"""Requirements of forms, such as a library: found, or made once in a process that the guard
watches."""

import asyncio
import os
import sys
import time
from collections.abc import Mapping

import structlog

import models
from supervisor import Guard, available_memory, in_units

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")


class RequirementMissing(Exception):
    """A requirement can neither be found nor made; the text says why."""


class RequirementSupply:
    """Looks for a requirement before each load that needs it; tries to make it where it is missing,
    and logs once what it comes to."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._making = asyncio.Lock()
        self._told: set[str] = set()

    async def get(self, requirement: models.Requirement) -> Mapping[str, str]:
        """Return the variables of a process that uses it. Raises `RequirementMissing`."""
        try:
            return await self._get(requirement)
        except RequirementMissing as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                log.warning(
                    "requirement.supply_failed",
                    name=requirement.name,
                    reason=str(error),
                    consequence=requirement.consequence,
                )
            raise

    async def _get(self, requirement: models.Requirement) -> Mapping[str, str]:
        if (problem := await asyncio.to_thread(requirement.problem)) is not None:
            raise RequirementMissing(problem)
        async with self._making:
            variables = await asyncio.to_thread(requirement.find)
            if variables is None:
                await self._make(requirement)
                variables = await asyncio.to_thread(requirement.find)
        if variables is None:
            raise RequirementMissing(f"the {requirement.name} was built, but is missing")
        return variables

    async def _make(self, requirement: models.Requirement) -> None:
        needs = requirement.needs_memory
        if (spare := available_memory()) < needs:
            raise RequirementMissing(
                f"it is not built yet: that may need {in_units(needs)}, and {in_units(spare)} is "
                "available"
            )
        started = time.monotonic()
        command = [sys.executable, "-P", "-m", *requirement.command]
        async with self._guard.helper(requirement.name, command, os.environ) as helper:
            death = await helper.ended()
        if death is not None:
            raise RequirementMissing(
                helper.said.splitlines()[-1] if helper.said else death.sentence
            )
        took = round(time.monotonic() - started, 1)
        log.info("requirement.built", name=requirement.name, seconds=took)
