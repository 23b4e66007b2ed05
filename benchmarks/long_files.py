"""What a long file costs the memory of who decodes it, against one minute of the same kind.

    python benchmarks/long_files.py [--hours 2]

Each file is read by `AudioReader` in a process of its own, whose peak is looked at: what the
recogniser holds beside it does not depend on the container.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import wavs
from encoded import encoded

KINDS = ("wav", "flac", "mp3", "m4a")
READ = """
import sys
from modelserver.worker.reader import AudioReader
with open(sys.argv[1], "rb") as file:
    size = file.seek(0, 2)
    reader = AudioReader(file, size, 16000)
    samples = sum(len(chunk) for _, chunk in reader.pcm(8000)) // 2
print(samples / 16000, open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""


def peak(file: Path) -> tuple[float, int]:
    """Seconds of audio that came out, and the most bytes that reading the file held."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(file)], capture_output=True, text=True, check=True
    )
    seconds, kilobytes = done.stdout.split()
    return float(seconds), int(kilobytes) * 1024


def grown(kind: str, minutes: int, directory: Path) -> tuple[int, float]:
    """Bytes by which so many minutes need more than one, and the seconds that they took."""
    minute = wavs.sine(1, 16, 1, 16_000, 1.0) * 60
    peaks = []
    took = 0.0
    for count in (1, minutes):
        file = directory / "file"
        file.write_bytes(encoded(minute * count, kind))
        started = time.monotonic()
        seconds, most = peak(file)
        took = time.monotonic() - started
        assert abs(seconds - 60 * count) < 1, (kind, seconds)
        peaks.append(most)
    return peaks[1] - peaks[0], took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    minutes = round(60 * parser.parse_args().hours)
    with tempfile.TemporaryDirectory() as directory:
        for kind in KINDS:
            more, took = grown(kind, minutes, Path(directory))
            print(f"{kind:6} {minutes} min: {more / 1e6:5.1f} MB more than 1 min, {took:.1f} s")


if __name__ == "__main__":
    main()
