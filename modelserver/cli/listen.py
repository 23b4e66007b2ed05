"""Command `modelserver listen [FILE|-]`: a live stream from the terminal, to any server of the Vosk
project's protocol."""

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from typing import IO, Any

import aiohttp
import click
import msgspec
import uvloop

from models.extras import how_to_install
from modelserver.admin.client import printable
from modelserver.cli.options import KEYWORDS, with_endpoints, with_settings
from modelserver.outbound.reasons import in_words
from modelserver.ready import authority
from modelserver.settings import Settings
from modelserver.settings.configuration import FLAG, KEY_VARIABLE, Configuration
from modelserver.speech.transcript import reader_text

_RATE = 16_000
_PIECE_S = 0.2
_PIECE_BYTES = int(_RATE * _PIECE_S) * 2
STDIN, MICROPHONE = "-", ""


class _Cannot(Exception):
    """Failure of the command; the text says why."""


@click.command()
@click.argument("file", default="", metavar="[FILE|-]")
@click.option(
    "--server",
    metavar="URL",
    help="URL of the server; any server of the Vosk protocol works  [default: the server of this "
    "machine, by the settings host and port]",
)
@click.option("--model", help="model of that server  [default: its default model]")
@KEYWORDS
@click.option("--key", envvar=KEY_VARIABLE, help="API key for that server")
@with_endpoints
@click.option(
    "--fast", is_flag=True, help="send the file as fast as the server accepts it, not in real time"
)
@with_settings("host", "port")
def listen(
    configuration: Configuration,
    file: str,
    server: str | None,
    model: str | None,
    keywords: tuple[str, ...],
    key: str | None,
    endpoint_ms: int,
    max_utterance_s: float,
    *,
    fast: bool,
) -> None:
    """Stream a microphone or a file to a server.

    Without FILE the microphone is sent until Ctrl-C; or standard input, if that is not a terminal.
    FILE may be any audio file, which is sent in real time. "-" is standard input: samples of 16
    bits, one channel, 16,000 a second, as `arecord -r 16000 -f S16_LE` writes them.

    On a terminal, unfinished text is rewritten in place; each final text is one line.
    """
    if server is None:
        server = _server_of(configuration.settings)
    elif given := [name for name in ("host", "port") if configuration.origins.get(name) == FLAG]:
        raise click.UsageError(f"--server and --{given[0]} exclude each other: choose one")
    if not file:
        file = MICROPHONE if sys.stdin.isatty() else STDIN
    paced = not fast and file not in (STDIN, MICROPHONE)
    config: dict[str, Any] = {"sample_rate": _RATE, "words": False}
    options = {"endpoint_ms": endpoint_ms, "max_utterance_s": max_utterance_s, "keywords": keywords}
    config |= {name: value for name, value in options.items() if value}
    try:
        uvloop.run(_listen(file, server, model, key, config, paced=paced))
    except Exception as raised:
        error = _first(raised)
        if not isinstance(error, _Cannot | OSError | aiohttp.ClientError):
            raise
        raise click.ClickException(in_words(error)) from raised


def _server_of(settings: Settings) -> str:
    """Return the URL of the server that has these settings, on this machine."""
    if settings.port == 0:
        raise click.UsageError("port is 0, any free one: name the server with --server")
    return f"ws://{authority(settings.host, settings.port)}/"


def _first(error: Exception) -> Exception:
    """Return the exception in a task group's; click prints no other as a sentence."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _listen(
    file: str,
    server: str,
    model: str | None,
    key: str | None,
    config: dict[str, Any],
    *,
    paced: bool,
) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with aiohttp.ClientSession(headers=headers) as session:
        try:
            connecting = session.ws_connect(server, params={"model": model} if model else {})
            socket = await connecting
        except aiohttp.WSServerHandshakeError as error:
            later = error.headers.get("Retry-After") if error.headers else None
            next_step = f"; try again in {later} s" if later else ""
            if error.status == HTTPStatus.UNAUTHORIZED:
                next_step = (
                    f": {'the key is wrong' if key else 'a key is required'}; "
                    f"send one with --key or {KEY_VARIABLE}"
                )
            raise _Cannot(f"{server} refused with {error.status}{next_step}") from error
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise _Cannot(
                f"no server answers at {server}: {in_words(error)}\n"
                "Start one with `modelserver serve`, or name one with --server"
            ) from error
        async with socket:
            await socket.send_json({"config": config})
            async with asyncio.TaskGroup() as tasks:  # if one fails, so does the other
                sending = tasks.create_task(_send(socket, file, paced=paced))
                await _show(socket, server)
                sending.cancel()
        if socket.close_code not in (None, 1000):
            raise _Cannot(f"{server} closed the stream with {socket.close_code}")


async def _send(socket: aiohttp.ClientWebSocketResponse, file: str, *, paced: bool) -> None:
    loop = asyncio.get_running_loop()
    began, number = loop.time(), 0
    async for piece in _pieces(file):
        if paced:
            await asyncio.sleep(max(0.0, began + number * _PIECE_S - loop.time()))
        await socket.send_bytes(piece)
        number += 1
    await socket.send_str('{"eof" : 1}')


async def _pieces(file: str) -> AsyncIterator[bytes]:
    if file == MICROPHONE:
        async with aclosing(_spoken()) as spoken:
            async for piece in spoken:
                yield piece
        return
    if file == STDIN:
        source: IO[bytes] = sys.stdin.buffer
        while piece := await asyncio.to_thread(source.read, _PIECE_BYTES):
            yield piece
        return
    pcm = await asyncio.to_thread(_decoded, file)
    for at in range(0, len(pcm), _PIECE_BYTES):
        yield pcm[at : at + _PIECE_BYTES]


async def _spoken() -> AsyncGenerator[bytes, None]:
    """Yield audio of the microphone, until Ctrl-C."""
    try:
        import sounddevice
    except ImportError as error:
        raise _Cannot(
            f"the microphone needs a package ({how_to_install('microphone')}); or use: "
            "arecord -q -t raw -r 16000 -f S16_LE | modelserver listen -"
        ) from error
    except OSError as error:  # PortAudio is missing
        raise _Cannot(
            f"the microphone cannot be used: {error} (apt-get install libportaudio2)"
        ) from error
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    def captured(data: Any, *_: object) -> None:  # in a thread of PortAudio's
        loop.call_soon_threadsafe(pieces.put_nowait, bytes(data))

    try:
        microphone = sounddevice.RawInputStream(
            samplerate=_RATE,
            channels=1,
            dtype="int16",
            blocksize=_PIECE_BYTES // 2,
            callback=captured,
        )
    except sounddevice.PortAudioError as error:
        raise _Cannot(f"the microphone cannot be used: {error}") from error
    loop.add_signal_handler(signal.SIGINT, pieces.put_nowait, None)
    try:
        with microphone:
            click.echo("listening; Ctrl-C ends it", err=True)
            while (piece := await pieces.get()) is not None:
                yield piece
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _decoded(file: str) -> bytes:
    """Return the whole file as 16-bit mono samples."""
    import av  # which a server's supervisor, that knows this command too, is not to carry

    resampler = av.AudioResampler(format="s16", layout="mono", rate=_RATE)
    pcm = bytearray()
    try:
        with av.open(file) as container:
            if not container.streams.audio:
                raise _Cannot(f"{file}: there is no audio in it")
            for frame in (*container.decode(audio=0), None):
                for resampled in resampler.resample(frame):
                    pcm += bytes(resampled.planes[0])[: resampled.samples * 2]
    except av.FFmpegError as error:
        raise _Cannot(f"{file}: {error.strerror or error}") from error
    return bytes(pcm)


async def _show(socket: aiohttp.ClientWebSocketResponse, server: str) -> None:
    """Final results as lines, partial ones in place where there is a place."""
    in_place = sys.stdout.isatty()
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue
        try:
            said = msgspec.json.decode(message.data, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise _Cannot(
                f"{server} answered, but not in the Vosk project's protocol: {error}"
            ) from error
        if text := reader_text([str(said.get("text", ""))]):
            click.echo(("\r\x1b[K" if in_place else "") + printable(text))
        elif in_place and (partial := reader_text([str(said.get("partial", ""))])):
            # Letters of some scripts take two columns.
            columns = max(10, shutil.get_terminal_size().columns // 2 - 1)
            click.echo("\r\x1b[K" + printable(partial)[-columns:], nl=False)
