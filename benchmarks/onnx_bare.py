"""The limit of an ONNX model without a server: sherpa-onnx in forked processes, which share the
model. See `bare.py`."""

import json
import os
import sys
from pathlib import Path

import utterances
from bare import Bare, decode_on_command
from onnx_contestants import OnnxModel, padded


def bare_onnx(model: OnnxModel, audio: Path, processes: int) -> Bare:
    """Start a process that runs `main` below."""
    arguments = json.dumps({**model.arguments})
    command = [__file__, model.factory, arguments, str(model.padding_s), str(audio), str(processes)]
    return Bare(command, os.environ)


def main(factory: str, arguments: str, padding_s: str, audio: str, processes: str) -> None:
    import sherpa_onnx

    make = getattr(sherpa_onnx.OfflineRecognizer, factory)
    recognizer = make(**json.loads(arguments), num_threads=1)

    def decode(pcm: bytes) -> None:
        stream = recognizer.create_stream()
        stream.accept_waveform(utterances.RATE, padded(pcm, float(padding_s)))
        recognizer.decode_stream(stream)

    decode_on_command(decode, utterances.utterances(Path(audio), 10_000), int(processes), {})


if __name__ == "__main__":
    main(*sys.argv[1:])
