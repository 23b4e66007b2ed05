"""Latency of one live stream on an idle machine, with each engine: the first partial result, and
the final text after the end of speech. A part of `bench.py`."""

import asyncio
from collections.abc import Sequence

from contestants import Start, this_server, threads
from findings import Asked, Finding, Table, say
from onnx_contestants import Servers, sense_voice_shape, whisper_base
from streams import PIECE_S, Timings, many
from tables import spread

_LONGEST_S = 5.0
_CLIPS = 3


def lone_stream(asked: Asked) -> Finding:
    """Measure one stream after the other, at the pace of speech."""
    clips = asked.short(_LONGEST_S)[: max(_CLIPS, asked.rounds)]
    plan: Sequence[tuple[str, Start]] = (
        ("Vosk", this_server),
        ("Vosk", threads),
        ("Whisper base", Servers(whisper_base()).this_server),
        ("SenseVoice's shape", Servers(sense_voice_shape()).this_server),
    )
    finding, rows = Finding(raw={"lone_stream": {}}), []
    for model, start in plan:
        with start() as contestant:
            asyncio.run(many(contestant.url, 1, clips[-1:]))  # the first stream is slower
            seen = [asyncio.run(many(contestant.url, 1, [clip])) for clip in clips]
        first, last = (
            [1000 * s for one in seen for s in times(one)] for times in (_first, _after_end)
        )
        cells = [spread(found, ".0f") if found else "none" for found in (first, last)]
        rows.append((model, contestant.name, *cells))
        say(" | ".join(rows[-1]))
        finding.raw["lone_stream"][f"{contestant.name}, {model}"] = {
            "first_ms": first, "after_end_ms": last
        }  # fmt: skip
    finding.notes += [
        (
            f"A client sends {len(clips)} clips of at most {_LONGEST_S:g} s, one after the other, "
            f"at the pace of speech, {PIECE_S:g} s in a message."
        ),
        "The first partial result counts from the first message, with any silence in the clip.",
        "The final text counts from the last message, at which the client ends the stream.",
        "sherpa-onnx has no server that streams with a model for whole files.",
    ]
    head = ("model", "server", "first partial result, ms", "final text after the end, ms")
    finding.tables.append(Table("", head, rows))
    return finding


def _first(seen: Timings) -> list[float]:
    return seen.first_s


def _after_end(seen: Timings) -> list[float]:
    return seen.end_s
