"""Beam of a Vosk model: how wide its search is, changed from one recogniser to the next in one
loaded model.

The engine reads the width from `conf/model.conf` when it loads a model, stores it inside the model,
and reads it there whenever it makes a decoder. So that one model in memory can serve all profiles,
its address is found by its content, and the width is written there before a decoder may be made.
(Kaldi: `LatticeIncrementalDecoderConfig`, whose first members are beam, max_active, min_active and
lattice_beam; Vosk: `Model::nnet3_decoding_config_`.) If it is not found exactly once, nothing is
written, and all profiles search as the model was published.
"""

import contextlib
import ctypes
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.contract import DEFAULT_PROFILE

_FACTORS = {"fast": (0.8, 2 / 3), "balanced": (1.0, 1.0), "accurate": (1.3, 7 / 3)}
"""Factors of the beam and of the most active states; measured in docs/decisions.md."""

_LAYOUT = struct.Struct("<fiif")
_CHANGED = struct.Struct("<fi")

# Kaldi's own defaults, and Vosk's for models of the old layout, which have no model.conf.
_UNSET = {"beam": 16.0, "max-active": 2**31 - 1, "min-active": 200, "lattice-beam": 10.0}
_OLD_LAYOUT = {"beam": 13.0, "max-active": 7000, "min-active": 200, "lattice-beam": 6.0}


@dataclass(frozen=True, slots=True)
class Width:
    """Width of the search. `beam`: how much less likely than the best a state may be, in the
    logarithm of likelihood; `max_active`: how many states are continued, frame by frame."""

    beam: float
    max_active: int


def published_width(model: Path) -> dict[str, float]:
    """Return the settings in a model's files, with the engine's defaults: `beam`, `max-active`,
    `min-active` and `lattice-beam`. Raises `OSError`."""
    try:
        # Names and numbers are ASCII; Kaldi ignores the encoding of comments.
        text = (model / "conf" / "model.conf").read_text(encoding="latin-1")
    except FileNotFoundError:
        return dict(_OLD_LAYOUT)
    found = dict(_UNSET)
    for line in text.splitlines():
        name, _, value = line.split("#")[0].strip().removeprefix("--").partition("=")
        with contextlib.suppress(ValueError):  # the engine refuses it with its own message
            if name in found:
                found[name] = float(value)
    return found


def widths(model: Path) -> dict[str, Width]:
    """Return the widths by profile. Raises `OSError`."""
    return _widths(published_width(model))


def _widths(own: dict[str, float]) -> dict[str, Width]:
    return {
        profile: Width(
            round(own["beam"] * beam, 3),
            # Kaldi wants at least one state, and more than `min-active` (its `Check`).
            max(
                min(2**31 - 1, round(own["max-active"] * active)),
                min(int(own["max-active"]), int(own["min-active"]) + 1),
            ),
        )
        for profile, (beam, active) in _FACTORS.items()
    }


class Beam:
    """Beam of one loaded model. Call `use` before anything that may make a decoder."""

    def __init__(self, model: Any, ffi: Any, directory: Path) -> None:
        """Find the beam in `model`, a `vosk.Model` loaded from `directory`; `ffi`: that of the
        binding."""
        own = published_width(directory)
        self._widths = {
            profile: _CHANGED.pack(width.beam, width.max_active)
            for profile, width in _widths(own).items()
        }
        self._address = _find(int(ffi.cast("uintptr_t", model._handle)), own)
        self._used = DEFAULT_PROFILE

    @property
    def found(self) -> bool:
        """True if profiles make a difference."""
        return self._address is not None

    def use(self, profile: str) -> None:
        """Set the beam of the profile for decoders that are made from now on."""
        if self._address is not None and profile != self._used:
            ctypes.memmove(self._address, self._widths[profile], _CHANGED.size)
            self._used = profile


def _find(model: int, own: dict[str, float]) -> int | None:
    """Return the address of the settings of the model's files in the object at `model`; None if
    they are not there, or there twice."""
    libc = ctypes.CDLL(None)
    libc.malloc_usable_size.restype = ctypes.c_size_t
    libc.malloc_usable_size.argtypes = [ctypes.c_void_p]
    content = ctypes.string_at(model, libc.malloc_usable_size(model))
    wanted = _LAYOUT.pack(
        own["beam"], int(own["max-active"]), int(own["min-active"]), own["lattice-beam"]
    )
    at = content.find(wanted)
    if at < 0 or at % 4 or content.find(wanted, at + 1) >= 0:
        return None
    return model + at
