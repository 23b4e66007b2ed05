"""Actions on models: list them, pull one, serve another."""

import asyncio
from typing import Any

import msgspec
import structlog

import models
from modelserver.refusal import Refusal
from modelserver.serving.commands import Failure, ProgressLine, run_models_command
from modelserver.serving.listing import ModelRow, overview
from modelserver.serving.pool_settings import memory_settings
from modelserver.serving.reloading import Reloader
from modelserver.serving.served import ServedModel
from modelserver.serving.service import SpeechService
from modelserver.settings.labels import first_model
from supervisor import Cause, Tasks, find_headroom, in_units

log: structlog.stdlib.BoundLogger = structlog.get_logger("models")


class Pulling(msgspec.Struct):
    """A model that is fetched. `state`: "pulling", "installed" or "failed"; bytes."""

    name: str
    state: str = "pulling"
    phase: str = ""
    done: int = 0
    total: int = 0
    reason: str | None = None


class ModelDesk:
    """The admin side's actions on models."""

    def __init__(self, service: SpeechService, reloader: Reloader) -> None:
        self._service, self._reloader = service, reloader
        self._tasks = Tasks()
        self.pulling: Pulling | None = None
        """The last one that was asked for."""

    async def all(self) -> dict[str, Any]:
        """Return the installed and the known models, and which of them would fit."""
        settings = first_model(self._service.settings)

        def look() -> tuple[list[ModelRow], str]:
            headroom = find_headroom(memory_settings(settings))
            found = overview(settings, headroom)
            return found.rows, f"room for {in_units(headroom.now)} now; {headroom.limit}"

        rows, room = await asyncio.to_thread(look)
        return {"models": rows, "room": room, "pulling": self.pulling}

    def find(self, label: str) -> ServedModel:
        """Return a served model by its label. Raises `Refusal`."""
        if (served := self._service.models.get(label)) is None:
            there = ", ".join(self._service.models)
            raise Refusal("model_not_found", f"no model is served as {label!r}; there are: {there}")
        return served

    async def unload(self, label: str) -> None:
        """Unload a model that the next request for it loads again. Raises `Refusal`."""
        served = self.find(label)
        if not served.on_demand:
            raise Refusal("bad_settings", 'only a model with load = "first_use" can be unloaded')
        await served.stop()

    def pull(self, name: str) -> None:
        """Fetch it; `pulling` says how far it is. Raises `Refusal`."""
        if self.pulling is not None and self.pulling.state == "pulling":
            raise Refusal("bad_request", f"{self.pulling.name} is being downloaded: wait for it")
        if models.catalog_entry(name) is None:
            raise Refusal("model_not_found", f"the catalogue has no model {name[:80]!r}")
        self.pulling = Pulling(name)
        self._tasks.once("a pull", lambda: self._pull(name))

    async def _pull(self, name: str) -> None:
        assert self.pulling is not None
        pulling, settings = self.pulling, self._service.settings

        def moved(progress: ProgressLine) -> None:
            pulling.phase, pulling.done = progress.phase, progress.done
            pulling.total = progress.total

        # Hashing, unpacking and syncing gigabytes takes a slow disk minutes.
        try:
            failure = await run_models_command(
                self._service.guard, "download", ["pull", name], settings, moved
            )
        except OSError as error:
            failure = Failure("", str(error), Cause.UNKNOWN)
        if failure is not None:
            pulling.state = "failed"
            pulling.reason = failure.reason
            log.error("model.pull_failed", model=name, reason=pulling.reason)
        else:
            pulling.state = "installed"
            log.info("model.pulled", model=name)

    async def change(self, name: str) -> None:
        """Serve another in place of the first, until the settings are read again. Raises
        `Refusal`."""
        directory = self._service.settings.models_dir
        there = {location.name for location in models.installed_models(directory)}
        if name not in there:
            raise Refusal("model_not_found", f"no model {name[:80]!r} is installed")
        await self._reloader.serve(name)
