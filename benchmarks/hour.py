"""An hour of audio as one recording: all of it, and each word where it was said.

    python benchmarks/hour.py [--minutes M] [--audio DIR]

Utterances are put at known places, with pauses between them. Each is transcribed by itself; in the
transcript of the whole the first word after the middle of a pause should begin where the
utterance's first word does, and the last word before the middle of the next end where its last one
does. Words themselves are not compared: what a small model makes of synthetic speech depends on
what was before. Subtitles are read by parsers that are not ours.
"""

import argparse
import random
import statistics
import time
from pathlib import Path
from typing import Any

import srt
import utterances
import webvtt
from long_recordings import PATIENT, hush
from parts import RunningServer
from server import server
from tables import table
from waves import wav

RIGHT_S = 0.3
PAUSE_S = 0.8


def placed(spoken: list[bytes], seconds: float) -> tuple[bytes, list[tuple[float, int]]]:
    """The recording, and where each utterance begins in it."""
    chance, pcm = random.Random(3), bytearray()
    places = []
    while len(pcm) / 2 / utterances.RATE < seconds:
        number = chance.randrange(len(spoken))
        places.append((len(pcm) / 2 / utterances.RATE, number))
        pcm += spoken[number] + hush(chance, PAUSE_S + chance.random())
    return bytes(pcm), places


def job(running: RunningServer, body: bytes) -> tuple[dict[str, Any], float, str]:
    started = time.monotonic()
    answer = running.ask("/v1/jobs?words=true&segments=true", body, timeout_s=1000)
    assert answer.status == 202, answer.body
    where = answer.headers["Location"]
    while (found := running.ask(where).json)["state"] not in ("done", "failed"):
        time.sleep(0.5)
    assert found["state"] == "done", found
    return found["result"], time.monotonic() - started, where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--audio", default="", help="directory of 16 kHz mono WAV files")
    options = parser.parse_args()
    spoken = utterances.utterances(Path(options.audio) if options.audio else None, 80)
    pcm, places = placed(spoken, options.minutes * 60)
    limit = {"MODELSERVER_LIMITS_AUDIO_S": "100000"}
    with server("prepared", **PATIENT, **limit) as running:
        alone = [
            running.ask("/api/audio/convert?words=true", wav(one)).json["words"] for one in spoken
        ]
        whole, took_s, where = job(running, wav(pcm))
        srt_text = running.ask(f"{where}?format=srt").body.decode()
        vtt_text = running.ask(f"{where}?format=vtt").body.decode()
    words = whole["words"]
    offs: list[float] = []
    silent = 0
    for begins, number in places:
        ends = begins + len(spoken[number]) / 2 / utterances.RATE
        heard = [
            w for w in words if w["start"] > begins - PAUSE_S / 2 and w["end"] < ends + PAUSE_S / 2
        ]
        if not heard or not alone[number]:
            silent += 1
            continue
        offs.append(heard[0]["start"] - begins - alone[number][0]["start"])
        offs.append(heard[-1]["end"] - begins - alone[number][-1]["end"])
    right = sum(abs(off) <= RIGHT_S for off in offs)
    tenths = [offs[len(offs) * n // 10 : len(offs) * (n + 1) // 10] for n in range(10)]
    medians = [f"{statistics.median(part):+.2f}" for part in tenths if part]
    subtitles = list(srt.parse(srt_text))
    assert [one.index for one in subtitles] == list(range(1, len(subtitles) + 1))
    captions = webvtt.from_string(vtt_text).captions
    said = "".join(one.content for one in subtitles).replace(" ", "").replace("\n", "")
    assert said == whole["text"].replace(" ", "")
    ends = [one.end.total_seconds() for one in subtitles]
    starts = [one.start.total_seconds() for one in subtitles]
    overlaps = sum(start < end - 0.0011 for start, end in zip(starts[1:], ends, strict=False))
    print(
        table(
            ["", "measured"],
            [
                ["seconds of audio", f"{whole['duration']:.1f} of {len(pcm) / 2 / 16000:.1f}"],
                ["seconds it took", f"{took_s:.1f}"],
                ["utterances", str(len(places))],
                ["of which nothing was understood", str(silent)],
                ["beginnings and ends within 0.3 s", f"{right} of {len(offs)}"],
                ["median off, by tenths of the recording", " ".join(medians)],
                ["words of the whole", str(len(words))],
                ["subtitles (srt / vtt)", f"{len(subtitles)} / {len(captions)}"],
                ["that overlap the one before", str(overlaps)],
                ["last word ends", f"{words[-1]['end']:.1f} s"],
            ],
        )
    )


if __name__ == "__main__":
    main()
