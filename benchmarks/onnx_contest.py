"""The ONNX engine beside sherpa-onnx's own server and beside forked processes without any server.

    python benchmarks/onnx_contest.py MODEL_DIR [--language TAG] [--rounds N] [--count N]
                                      [--audio DIR]

MODEL_DIR holds a Whisper model for sherpa-onnx. $CONTESTANT_SHERPA_SERVER names sherpa-onnx's
`non_streaming_server.py`; it takes part where it is set. All stand at once, and are asked in turn.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import utterances
from bare import anonymous
from contestants import THIS, Ask, Contestant, started, this_server
from load import closed
from parts import free_port
from tables import spread, table

SERVER_VARIABLE = "CONTESTANT_SHERPA_SERVER"
_MANNERS = {
    "sherpa-onnx's server, defaults": (),
    "sherpa-onnx's server, two threads": ("--nn-pool-size", "2", "--num-threads", "1"),
}
_PADDING_S = 0.5
"""Silence behind each clip: Whisper's decoder stops after six tokens a second of audio."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--language", default="ko")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=40, help="utterances")
    parser.add_argument("--audio", type=Path, help="directory of 16 kHz mono WAV files")
    arguments = parser.parse_args()
    files = utterances.utterances(arguments.audio, arguments.count)
    audio_s = sum(map(utterances.seconds, files))
    rates: dict[str, list[float]] = {}
    p95: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        bares = {f"{n} forked processes": Bare(arguments, n) for n in (1, 2)}
        for bare in bares.values():
            stack.callback(bare.close)
        servers = [stack.enter_context(one) for one in _servers(arguments)]
        for server in servers:
            asyncio.run(closed(server, files[:4]))
        for _ in range(arguments.rounds):
            for name, bare in bares.items():
                run = bare.run()
                rates.setdefault(name, []).append(audio_s / run["wall_s"])
                memory.setdefault(name, []).append(run["anonymous"] / 1e6)
            for server in servers:
                seen = asyncio.run(closed(server, files))
                assert not seen.lost, (server.name, seen.failed)
                rates.setdefault(server.name, []).append(audio_s / seen.wall_s)
                p95.setdefault(server.name, []).append(seen.percentile(0.95))
                memory.setdefault(server.name, []).append(server.memory_mb())
            print({name: round(found[-1], 2) for name, found in rates.items()}, file=sys.stderr)
    ours = rates[THIS]
    print(f"{len(files)} utterances, {audio_s:.0f} s of audio, 8 clients, 2 workers\n")
    rows = [
        (
            name,
            spread(found, ".1f"),
            spread([one / other for one, other in zip(ours, found, strict=True)], ".2f"),
            spread(p95[name]) if name in p95 else "",
            spread(memory[name], ".0f"),
        )
        for name, found in rates.items()
    ]
    head = ("", "audio s per s", "this server over it", "95th percentile, s", "anonymous MB")
    print(table(head, rows))


def _servers(arguments: argparse.Namespace) -> Iterator[Any]:
    yield this_server(
        MODELSERVER_MODEL=str(arguments.model.resolve()), MODELSERVER_LANGUAGE=arguments.language
    )
    if SERVER_VARIABLE in os.environ:
        for name, flags in _MANNERS.items():
            yield sherpa_server(name, arguments.model, arguments.language, flags)


@contextlib.contextmanager
def sherpa_server(
    name: str, model: Path, language: str, flags: tuple[str, ...]
) -> Iterator[Contestant]:
    """sherpa-onnx's own Python server, all threads in one process."""
    port = free_port()
    encoder, decoder, tokens = whisper_files(model)
    script = Path(os.environ[SERVER_VARIABLE])
    program = [
        *(str(script), "--doc-root", str(script.parent / "web")),
        *("--whisper-encoder", str(encoder), "--whisper-decoder", str(decoder)),
        *("--tokens", str(tokens), "--whisper-language", language, "--port", str(port), *flags),
    ]
    with started(program, port, None) as pid:
        yield Contestant(name, over_sherpa(f"ws://127.0.0.1:{port}/"), pid)


def over_sherpa(url: str) -> Ask:
    """Send a file over a connection of its own: rate and length, samples as floats, and `Done`."""
    import numpy as np

    async def ask(session: aiohttp.ClientSession, pcm: bytes) -> str:
        samples = _padded(np.frombuffer(pcm, np.int16)).tobytes()
        head = utterances.RATE.to_bytes(4, "little") + len(samples).to_bytes(4, "little")
        async with session.ws_connect(url) as socket:
            for at in range(0, len(samples), 10_240):
                await socket.send_bytes((head if not at else b"") + samples[at : at + 10_240])
            text = await socket.receive_str()
            await socket.send_str("Done")
        return text

    return ask


def whisper_files(model: Path) -> tuple[Path, Path, Path]:
    """Encoder, decoder and tokens."""
    return (
        next(model.glob("*encoder*.onnx")),
        next(model.glob("*decoder*.onnx")),
        next(model.glob("*tokens.txt")),
    )


def _padded(samples: Any) -> Any:
    import numpy as np

    silence = np.zeros(int(_PADDING_S * utterances.RATE), np.float32)
    return np.concatenate([samples.astype(np.float32) / 32768, silence])


class Bare:
    """A process that loads the model by itself and forks so many that decode."""

    def __init__(self, arguments: argparse.Namespace, processes: int) -> None:
        audio = str(arguments.audio or "")
        told = [str(arguments.model), arguments.language, str(processes), audio]
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import onnx_contest; onnx_contest.bare()", *told,
             str(arguments.count)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        )  # fmt: skip
        self.run()

    def run(self) -> dict[str, float]:
        """Decode the whole set: wall seconds, anonymous bytes of all processes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer: dict[str, float] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def bare() -> None:
    """Run the process behind `Bare`."""
    import numpy as np
    import sherpa_onnx

    model, language, processes, audio, count = sys.argv[1:]
    encoder, decoder, tokens = map(str, whisper_files(Path(model)))
    files = utterances.utterances(Path(audio) if audio else None, int(count))
    recognizer = sherpa_onnx.OfflineRecognizer.from_whisper(
        encoder, decoder, tokens, language=language, num_threads=1
    )

    def child(taken: Any, begin: Any, done: Any) -> None:
        while True:
            begin.acquire()
            while True:
                with taken.get_lock():
                    number = taken.value
                    taken.value += 1
                if number >= len(files):
                    break
                stream = recognizer.create_stream()
                samples = _padded(np.frombuffer(files[number], np.int16))
                stream.accept_waveform(utterances.RATE, samples)
                recognizer.decode_stream(stream)
            done.release()

    fork = multiprocessing.get_context("fork")
    taken, done = fork.Value("i", 0), fork.Semaphore(0)
    begins = [fork.Semaphore(0) for _ in range(int(processes))]
    children = [fork.Process(target=child, args=(taken, one, done), daemon=True) for one in begins]
    for one in children:
        one.start()
    for _ in sys.stdin:
        taken.value, began = 0, time.monotonic()
        for begin in begins:
            begin.release()
        for _ in children:
            done.acquire()
        pids = [os.getpid(), *(one.pid for one in children)]
        held = sum(anonymous(pid) for pid in pids if pid is not None)
        print(json.dumps({"wall_s": time.monotonic() - began, "anonymous": held}), flush=True)


if __name__ == "__main__":
    main()
