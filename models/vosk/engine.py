"""The engine Vosk: implements `models.engine.Engine`. Importing it does not load the library."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.contract import Model, ModelLocation
from models.engine import EngineSettings, Finding, Form, Improvement
from models.processor import processor_flags
from models.vosk import forms as vosk_forms
from models.vosk.building import compiler_is_here
from models.vosk.layout import has_parts, layout_problem
from models.vosk.prepared import GRAPH_COMPILER, can_build, estimate_needs, find_prepared
from models.vosk.simd import SIMD, choose_variant
from models.vosk.store import VoskStore


class VoskEngine:
    """Engine of Vosk models. Implements `models.engine.Engine`."""

    def __init__(self) -> None:
        self.name = "vosk"
        self.store = VoskStore()
        self.punctuation = None

    def problem(self, directory: Path) -> str | None:
        """See `models.engine.Engine`."""
        return layout_problem(directory)

    def claims(self, directory: Path) -> bool:
        """See `models.engine.Engine`."""
        return has_parts(directory)

    def missing(self) -> str | None:
        """See `models.engine.Engine`."""
        if importlib.util.find_spec("vosk") is not None:
            return None
        return (
            "the package vosk, which modelserver needs, is not installed: install modelserver again"
        )

    def forms(self, location: ModelLocation, settings: EngineSettings) -> list[Form]:
        """See `models.engine.Engine`."""
        return vosk_forms.forms(location, settings)

    def load(self, location: ModelLocation, options: Mapping[str, Any]) -> Model:
        """See `models.engine.Engine`."""
        from models.vosk.model import VoskModel

        return VoskModel(
            location.directory,
            {name: Path(file) for name, file in options.get("made", {}).items()},
            prefetch=options.get("prefetch", False),
            left_out=tuple(options.get("left_out", ())),
            simd=options.get("simd"),
            form=options.get("form", ""),
        )

    def improvement(self, location: ModelLocation, settings: EngineSettings) -> Improvement | None:
        """Return the change by preparing (see `models.engine.Engine`). A model whose graph is
        mapped already is prepared, too: it gets a smaller word list, and features without
        dither."""
        if find_prepared(location, settings.store).prepared is not None:
            return None
        needs = estimate_needs(location.directory)
        return Improvement(
            tuple(vosk_forms.forms_once_prepared(location, settings, needs.mapped)),
            "a model that is served as published is several times slower and takes several times "
            "the memory",
        )

    def sound(self, form: Form, *, thorough: bool) -> str | None:
        """Return what is damaged (see `models.engine.Engine`). Sizes first, which is cheap."""
        return self.store.damage(form, thorough=thorough)

    def findings(self, settings: EngineSettings) -> list[Finding]:
        """See `models.engine.Engine`."""
        found = [Finding(_simd(settings))]
        if not can_build() and GRAPH_COMPILER.find(settings.store) is None:
            why = (
                "models cannot be prepared here, and are several times slower without: there is no "
                f"compiler ({GRAPH_COMPILER.needs})"
            )
            found.append(Finding(why, attention=True))
        return found


def _simd(settings: EngineSettings) -> str:
    values = vosk_forms.VoskValues.of(settings)
    variant = choose_variant(processor_flags(), values.blas)
    if values.simd == "off":
        return "SIMD library: off, by the settings"
    if variant is None:
        return "SIMD library: none for this processor"
    if SIMD.find(settings.store) is None and not compiler_is_here():
        return f"SIMD library: {variant}, but there is no compiler ({SIMD.needs})"
    return f"SIMD library: {variant}"


ENGINE = VoskEngine()
