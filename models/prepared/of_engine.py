"""Prepared models of one engine, with the interface of `models.engine`."""

from pathlib import Path

from models.contract import ModelError, ModelLocation
from models.engine import EngineSettings, Form
from models.leftovers import Leftover
from models.prepared.carry import export_prepared, import_prepared
from models.prepared.leftovers import find_leftovers
from models.prepared.maker import Maker, Needs, family_of
from models.prepared.manifest import read_manifest
from models.prepared.store import PreparedModel, changed_size, prepared_models, remove, verify


class MakerStore:
    """Implements the part of `models.engine.PreparedStore` that all engines have in common; an
    engine adds how a model is prepared."""

    def __init__(self, maker: Maker) -> None:
        self._maker = maker

    def needs(self, location: ModelLocation) -> Needs:
        """See `models.engine.PreparedStore`."""
        return self._maker.estimate_needs(location.directory)

    def all(self, store: Path) -> list[PreparedModel]:
        """See `models.engine.PreparedStore`."""
        ours = family_of(self._maker.version)
        return [p for p in prepared_models(store) if family_of(p.manifest.maker) == ours]

    def verify(self, directory: Path) -> list[str]:
        """See `models.engine.PreparedStore`."""
        return verify(_read(directory), self._maker)

    def remove(self, directory: Path) -> None:
        """See `models.engine.PreparedStore`."""
        remove(directory)

    def write_archive(self, directory: Path, file: Path) -> None:
        """See `models.engine.PreparedStore`."""
        export_prepared(_read(directory), file, self._maker)

    def read_archive(
        self, file: Path, location: ModelLocation, settings: EngineSettings
    ) -> PreparedModel:
        """See `models.engine.PreparedStore`."""
        memory, store = settings.available, settings.store
        return import_prepared(file, location, store, self._maker, available_memory=memory)

    def leftovers(self, store: Path) -> list[Leftover]:
        """See `models.engine.PreparedStore`."""
        return find_leftovers(store, self._maker)

    def damage(self, form: Form, *, thorough: bool) -> str | None:
        """Return how a form's prepared files are damaged (`models.engine.Engine.sound`). Sizes
        first, which is cheap."""
        if form.prepared is None:
            return None
        manifest = read_manifest(form.prepared)
        if manifest is None:
            return "its manifest cannot be read"
        prepared = PreparedModel(form.prepared, manifest)
        if (problem := changed_size(prepared)) is not None or not thorough:
            return problem
        return next(iter(verify(prepared, self._maker)), None)


def _read(directory: Path) -> PreparedModel:
    manifest = read_manifest(directory)
    if manifest is None:
        raise ModelError("damaged", f"{directory} is not a prepared model")
    return PreparedModel(directory, manifest)
