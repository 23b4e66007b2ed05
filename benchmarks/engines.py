"""Three ways to use the same model, side by side: a new recogniser for every request, one kept,
and the prepared model. No server; the table is what the server builds on.

    python benchmarks/engines.py [--rounds N] [--count N] [--audio DIR] [--allocator NAME]
"""

import argparse
import os
from pathlib import Path
from typing import Any

from bare import MODES, Bare, bare_vosk
from tables import spread, table

import models
from models.vosk.prepared import find_prepared
from modelserver.settings import Settings

MB = 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=40, help="utterances")
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    parser.add_argument("--allocator", default="auto")
    arguments = parser.parse_args()
    common = (arguments.audio, arguments.count, arguments.allocator)

    cold = {mode: _cold_load(mode, common) for mode in MODES}
    ones = {mode: bare_vosk(mode, 1, *common) for mode in MODES}
    single = _rounds(ones, arguments.rounds)
    warm = {mode: bare.loaded for mode, bare in ones.items()}
    _close(ones)
    twos = {mode: bare_vosk(mode, 2, *common) for mode in MODES}
    double = _rounds(twos, arguments.rounds)
    _close(twos)

    rows = []
    for mode in MODES:
        loaded = warm[mode]["anonymous"]
        after = [sum(run["anonymous"]) for run in double[mode]]
        rows.append([
            mode,
            spread([run["wall_s"] / run["audio_s"] for run in single[mode]], ".3f"),
            spread([run["audio_s"] / run["wall_s"] for run in double[mode]], ".1f"),
            spread(_ratios(double[mode], double["new"]), ".1f"),
            spread(_ratios(double[mode], double["kept"]), ".1f"),
            f"{cold[mode]['load_s']:.1f} / {warm[mode]['load_s']:.1f}",
            f"{loaded / MB:.0f}",
            f"{after[-1] / MB:.0f}",
            f"{(after[-1] - loaded) / 2 / MB:.0f}",
        ])  # fmt: skip
    audio_s = single["new"][0]["audio_s"]
    print(
        f"{arguments.count} utterances, {audio_s:.0f} s of audio, {arguments.rounds} rounds, "
        f"{os.cpu_count()} CPUs, BLAS kernel {warm['prepared']['details'].get('blas_kernel')}\n"
    )
    print(
        table(
            [
                "recogniser",
                "real-time factor, 1 process",
                "audio s per s, 2 processes",
                "over new",
                "over kept",
                "load s, cold / warm",
                "anonymous MB after load",
                "of 3 processes after the set",
                "growth MB per worker",
            ],
            rows,
        )
    )
    print("\n" + _preparing())


def _cold_load(mode: str, common: tuple[str, int, str]) -> dict[str, Any]:
    """Load with nothing of the model in the file cache."""
    settings = Settings()
    location = models.find_model("auto", settings.models_dir)
    prepared = find_prepared(location, settings.prepared_dir).prepared
    files = [f for f in location.directory.rglob("*") if f.is_file()]
    files += prepared.made.values() if prepared else []
    for file in files:
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    bare = bare_vosk(mode, 1, *common)
    bare.close()
    return bare.loaded


def _rounds(bares: dict[str, Bare], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Run one round to get warm, then `rounds`, the modes in turn."""
    results: dict[str, list[dict[str, Any]]] = {mode: [] for mode in bares}
    for number in range(rounds + 1):
        for mode, bare in bares.items():
            run = bare.run()
            if number > 0:
                results[mode].append(run)
    return results


def _ratios(runs: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[float]:
    return [other["wall_s"] / run["wall_s"] for run, other in zip(runs, others, strict=True)]


def _close(bares: dict[str, Bare]) -> None:
    for bare in bares.values():
        bare.close()


def _preparing() -> str:
    settings = Settings()
    location = models.find_model("auto", settings.models_dir)
    prepared = find_prepared(location, settings.prepared_dir).prepared
    if prepared is None:
        return "not prepared"
    manifest = prepared.manifest
    original = sum(f.stat().st_size for f in Path(location.directory).rglob("*") if f.is_file())
    return (
        f"Preparing took {manifest.seconds:.0f} s and {manifest.peak_bytes / MB:.0f} MB at the "
        f"peak: {manifest.counts['states']:,} states, {manifest.counts['arcs']:,} arcs, "
        f"{prepared.bytes_on_disk / MB:.0f} MB beside the original's {original / MB:.0f} MB."
    )


if __name__ == "__main__":
    main()
