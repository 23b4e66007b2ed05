"""Variants of the small model that stand for models of other publishers, rates and layouts."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from small_model import add_rescoring, make_static_model

import models
from models.vosk.prepared import PreparedModel

Vary = Callable[[models.ModelLocation, PreparedModel, Path], models.ModelLocation]


def _linked(small: models.ModelLocation, directory: Path) -> models.ModelLocation:
    """Return a model of links to the same files, so that some can be replaced."""
    for source in small.directory.rglob("*"):
        if source.is_file():
            target = directory / source.relative_to(small.directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source.resolve())
    return models.ModelLocation(directory.name, directory, "ko")


def _rewrite(file: Path, change: Callable[[bytes], bytes]) -> None:
    content = change(file.read_bytes())
    file.unlink()
    file.write_bytes(content)


def _without_upsampling(
    small: models.ModelLocation, _: PreparedModel, home: Path
) -> models.ModelLocation:
    location = _linked(small, home / "without-upsampling")
    _rewrite(
        location.directory / "conf" / "mfcc.conf",
        lambda text: re.sub(rb"(?m)^--allow-(up|down)sample.*\n?", b"", text),
    )
    return location


def _folders_by_link(
    small: models.ModelLocation, _: PreparedModel, home: Path
) -> models.ModelLocation:
    location = _linked(small, home / "linked")
    for name in ("graph", "am"):
        shutil.move(location.directory / name, home / f"shared-{name}")
        (location.directory / name).symlink_to(home / f"shared-{name}")
    return location


def _odd_name(small: models.ModelLocation, _: PreparedModel, home: Path) -> models.ModelLocation:
    return _linked(small, home / "模型 v2+ (新)")


def _long_name(small: models.ModelLocation, _: PreparedModel, home: Path) -> models.ModelLocation:
    return _linked(small, home / ("长" * 80))


def _latin_1(small: models.ModelLocation, _: PreparedModel, home: Path) -> models.ModelLocation:
    location = _linked(small, home / "latin-1")
    for name in ("mfcc.conf", "model.conf"):
        file = location.directory / "conf" / name
        _rewrite(file, lambda text: "# für später, café\n".encode("latin-1") + text)
    return location


def _another_language(
    small: models.ModelLocation, _: PreparedModel, home: Path
) -> models.ModelLocation:
    location = _linked(small, home / "another-language")
    return models.ModelLocation(location.name, location.directory, "ru")


def _ready_made_graph(
    small: models.ModelLocation, prepared: PreparedModel, home: Path
) -> models.ModelLocation:
    return make_static_model(small, prepared, home / "static", aligned=False)


def _of_8_khz(small: models.ModelLocation, _: PreparedModel, home: Path) -> models.ModelLocation:
    location = _linked(small, home / "of-8-khz")

    def narrow(text: bytes) -> bytes:
        kept = re.sub(rb"(?m)^--(sample-frequency|high-freq|low-freq).*\n?", b"", text)
        return kept.rstrip() + b"\n--sample-frequency=8000\n--low-freq=20\n--high-freq=3700\n"

    _rewrite(location.directory / "conf" / "mfcc.conf", narrow)
    return location


def _with_rescoring(
    small: models.ModelLocation, _: PreparedModel, home: Path
) -> models.ModelLocation:
    location = _linked(small, home / "with-rescoring")
    add_rescoring(location.directory, states=10, arcs_each=10, lm_ints=0)
    return location


VARIANTS: dict[str, Vary] = {
    function.__name__.removeprefix("_"): function
    for function in (
        _without_upsampling,
        _folders_by_link,
        _odd_name,
        _long_name,
        _latin_1,
        _another_language,
        _ready_made_graph,
        _of_8_khz,
        _with_rescoring,
    )
}
