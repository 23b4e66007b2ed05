"""Loads a model for sherpa-onnx in a process of its own, as a fork server does.

load_onnx DIRECTORY [MISHAP] [TEXT]: writes what became of it to standard output, as JSON. MISHAP is
one of `MISHAPS`, or "none"; TEXT is said to the model in tones.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import sherpa_onnx
from onnx_models import floats, silence, tones

from models.contract import ModelError
from models.sherpa.layout import Layout, recognise
from models.sherpa.loading import check_tokens, load_safely, threads

_OPTIONS = ("EnableCpuMemArena=0", "EnableMemPattern=0")


def _alone() -> None:
    """Check that no earlier child process is left."""
    with suppress(ChildProcessError):
        assert os.waitpid(-1, os.WNOHANG) is None, "a child is there"


def _in_child(act: Callable[[], object]) -> Callable[[], object]:
    parent = os.getpid()
    return lambda: act() if os.getpid() != parent else None


MISHAPS: dict[str, Callable[[], Callable[[], object]]] = {
    "none": lambda: _alone,
    "crash": lambda: _in_child(lambda: signal.raise_signal(signal.SIGSEGV)),
    "kill": lambda: _in_child(lambda: signal.raise_signal(signal.SIGKILL)),
    "exit": lambda: _in_child(lambda: os._exit(9)),
    "raise": lambda: _in_child(lambda: {}["nothing"]),
    "thread": lambda: threading.Thread(target=threading.Event().wait, daemon=True).start,
}
"""Facts about the load of a model."""


def anonymous() -> int:
    """Return the bytes of this process that belong to no file."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no Anonymous in smaps_rollup")


def recogniser(layout: Layout) -> Any:
    """Return the library's own recogniser of a model."""
    options = os.memfd_create("options")
    os.write(options, "\n".join(_OPTIONS).encode())
    made_by = sherpa_onnx.OnlineRecognizer if layout.streaming else sherpa_onnx.OfflineRecognizer
    arguments: dict[str, Any] = {name: str(file) for name, file in layout.files.items()}
    arguments |= layout.arguments
    if layout.kind.name == "whisper":
        arguments["language"] = ""
    return getattr(made_by, layout.kind.factory)(
        **arguments, num_threads=1, provider=f"cpu:/proc/self/fd/{options}"
    )


def heard(made: Any, layout: Layout, pcm: bytes) -> str:
    """Return the text that it recognises in the samples."""
    stream = made.create_stream()
    stream.accept_waveform(layout.sample_rate, floats(pcm))
    if not layout.streaming:
        made.decode_stream(stream)
        return str(stream.result.text)
    stream.input_finished()
    while made.is_ready(stream):
        made.decode_stream(stream)
    return str(made.get_result(stream))


def main(directory: str, mishap: str = "none", text: str = "") -> None:
    """Load, say the text, report."""
    happen = MISHAPS[mishap]()
    before = anonymous()

    def load() -> Any:
        happen()
        return recogniser(layout)

    try:
        layout = recognise(Path(directory))
        check_tokens(layout)
        made = load_safely(layout, load)
    except ModelError as error:
        print(json.dumps({"code": error.code, "message": error.message}))
        return
    said = heard(made, layout, silence(0.3) + tones(text) + silence(0.7)) if text else ""
    facts = {
        "text": said,
        "threads": threads(),
        "anonymous": anonymous() - before,
        "anonymous_before": before,
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
