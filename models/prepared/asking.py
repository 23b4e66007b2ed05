"""Self-checks in a process of their own: a JSON document in, another one out."""

import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from models.contract import ModelError

T = TypeVar("T")


def answer_of(
    module: str, asked: msgspec.Struct, answer: type[T], environment: Mapping[str, str]
) -> T:
    """Run `module` with a document on standard input; return the document in its last line of
    output.

    Raises `ModelError`: `selfcheck_failed` with its last error, and `killed`.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=msgspec.json.encode(asked),
        capture_output=True,
        env=dict(environment),
        check=False,
    )
    if done.returncode < 0:
        raise ended_by_signal("the self-check", -done.returncode)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        last = (said or [f"exit status {done.returncode}"])[-1]
        raise ModelError("selfcheck_failed", f"the self-check could not run: {last}")
    return msgspec.json.decode(done.stdout.splitlines()[-1], type=answer)


def ended_by_signal(what: str, number: int) -> ModelError:
    """Return the error for a process that preparing needs: `killed` by SIGKILL, or else
    `compile_failed`, since it would end the same way again."""
    code = "killed" if number == signal.SIGKILL else "compile_failed"
    return ModelError(code, f"{what} was ended by {signal.Signals(number).name}")
