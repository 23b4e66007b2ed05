"""Failed preparations, remembered so that not every start of a server tries them again."""

from pathlib import Path

import msgspec

from models.contract import ModelError

FAILED_PREFIX = ".failed-"

_WOULD_FAIL_AGAIN = frozenset(
    {
        "answers_differ",
        "cannot_map",
        "compile_failed",
        "does_not_pay",
        "graph_too_large",
        "needs_too_much",
        "selfcheck_failed",
    }
)


class FailedAttempt(msgspec.Struct, frozen=True):
    """Preparation that failed. `by`: versions of the programs that it was made with."""

    name: str
    by: str
    code: str
    reason: str


def remember(store: Path, key: str, name: str, by: str, error: ModelError) -> None:
    """Record that preparing the sources with this key failed with `error`, if it would fail again.
    Raises `OSError`."""
    if error.code in _WOULD_FAIL_AGAIN:
        failed = FailedAttempt(name, by, error.code, error.message)
        _file(store, key).write_bytes(msgspec.json.encode(failed))


def forget(store: Path, key: str) -> None:
    """Delete the record, so that the next attempt is made. Raises `OSError`."""
    _file(store, key).unlink(missing_ok=True)


def must_not_have_failed(store: Path, key: str, by: str) -> None:
    """Raise `ModelError`, code `failed_before`, if preparing the same with the same versions has
    failed in a way that would repeat itself."""
    try:
        failed = msgspec.json.decode(_file(store, key).read_bytes(), type=FailedAttempt)
    except (OSError, msgspec.DecodeError):
        return
    if failed.by == by:
        raise ModelError(
            "failed_before",
            f"preparing {failed.name} has failed and would fail again: {failed.reason} "
            "(to try it nevertheless: `modelserver models prepare`)",
        )


def _file(store: Path, key: str) -> Path:
    return store / f"{FAILED_PREFIX}{key}.json"
