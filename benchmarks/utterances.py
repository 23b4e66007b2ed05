"""The audio of the benchmarks: spoken sentences, 16 kHz mono.

Either the WAV files of a directory, or synthetic speech: random sentences of Korean words, spoken
by espeak-ng with different voices and speeds, made once and kept. Always in the same order.
"""

import array
import os
import random
import subprocess
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelserver"
RATE = 16_000

_WORDS = """
오늘 내일 어제 아침 저녁 날씨가 비가 바람이 학교에서 회사에서 시장에
병원에 도서관까지 친구와 가족이 선생님께서 아이들이 사람들은 정부는
회사는 책을 밥을 음악을 영화를 신문을 전화를 편지를 먹었습니다 갔습니다
보았습니다 들었습니다 읽었습니다 말했습니다 시작했습니다 끝났습니다 많이
조금 아주 함께 다시 빨리 천천히 매우 정말 그리고 그러나 그래서 때문에
위해서 대해서 서울에서 부산으로 버스를 기차를 자동차를 지하철을 타고
걸어서 만나서 이야기를 문제를 생각을 방법을 경제가 사회의 문화의 역사를
"""


def utterances(directory: Path | None, count: int) -> list[bytes]:
    """Up to `count` utterances as 16-bit PCM."""
    if directory is None:
        directory = _synthetic(count)
    files = sorted(directory.glob("*.wav"))[:count]
    return [read_pcm(file) for file in files]


def read_pcm(file: Path) -> bytes:
    """Read the samples of a 16 kHz mono WAV file."""
    with wave.open(str(file)) as reader:
        assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (RATE, 1, 2)
        return reader.readframes(reader.getnframes())


def seconds(pcm: bytes) -> float:
    """Return the duration of the samples in seconds."""
    return len(pcm) / 2 / RATE


def _synthetic(count: int) -> Path:
    directory = CACHE / f"benchmark-audio-{count}"
    if len(list(directory.glob("*.wav"))) >= count:
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    generator = random.Random(160)
    vocabulary = _WORDS.split()
    jobs = []
    for number in range(count):
        words = " ".join(generator.choices(vocabulary, k=generator.randint(4, 7)))
        voice = generator.choice(["ko", "ko+m3", "ko+f2", "ko+f4", "ko+m7"])
        options = _voice(voice, generator.randint(130, 175), generator.randint(30, 70))
        jobs.append((directory / f"{number:03}.wav", options, words))
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda job: _write(job[0], _spoken(*job[1:])), jobs))
    return directory


def varied(count: int, longest_s: float, seed: int = 22) -> Path:
    """Make a directory of speech of about 1 s to `longest_s`, as many files of each doubling; many
    voices, paces and pitches; behind every other one noise, 10 to 25 dB below it."""
    directory = CACHE / f"benchmark-speech-{count}-{longest_s:g}-{seed}"
    if len(list(directory.glob("*.wav"))) >= count:
        return directory
    directory.mkdir(parents=True, exist_ok=True)
    chance, vocabulary = random.Random(seed), _WORDS.split()
    lengths = [longest_s ** ((number + 0.5) / count) for number in range(count)]
    chance.shuffle(lengths)
    for number, length in enumerate(lengths):
        voice = f"ko+{chance.choice('mf')}{chance.randint(1, 4)}"
        pace = chance.randint(120, 190)
        words = chance.choices(vocabulary, k=max(1, round(length * pace / 110)))
        samples = _spoken(_voice(voice, pace, chance.randint(20, 80)), " ".join(words))
        if number % 2:
            _add_noise(samples, chance.uniform(10, 25), chance)
        _write(directory / f"{number:03}.wav", samples)
    return directory


def _add_noise(samples: "array.array[int]", below_db: float, chance: random.Random) -> None:
    power = sum(one * one for one in samples) / len(samples)
    level = (power / 10 ** (below_db / 10)) ** 0.5
    for at, one in enumerate(samples):
        samples[at] = max(-32768, min(32767, one + round(chance.gauss(0, level))))


def _voice(name: str, pace: int, pitch: int) -> list[str]:
    return ["-v", name, "-s", str(pace), "-p", str(pitch)]


def _spoken(options: list[str], text: str) -> "array.array[int]":
    """espeak-ng speaks at 22,050 Hz; linear interpolation is good enough for load."""
    spoken = subprocess.run(
        ["espeak-ng", *options, "--stdout", text], capture_output=True, check=True
    ).stdout
    samples = array.array("h", spoken[44 : 44 + (len(spoken) - 44) // 2 * 2])
    step = 22_050 / RATE
    resampled = array.array("h")
    position = 0.0
    while position < len(samples) - 1:
        at = int(position)
        part = position - at
        resampled.append(int(samples[at] * (1 - part) + samples[at + 1] * part))
        position += step
    return resampled


def _write(file: Path, samples: "array.array[int]") -> None:
    with wave.open(str(file), "wb") as writer:
        writer.setparams((1, 2, RATE, 0, "NONE", ""))
        writer.writeframes(samples.tobytes())
