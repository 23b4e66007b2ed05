"""The decision whether a request is allowed: by its key, and by the quota of that key."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from modelserver.access.client_secrets import PREFIX, ClientSecret, ClientSecrets
from modelserver.access.keyring import Keyring
from modelserver.access.quota import Allowed, Quota
from modelserver.refusal import Refusal
from modelserver.settings import AuthSettings

log: structlog.stdlib.BoundLogger = structlog.get_logger("http")


def bearer_of(authorization: str) -> str:
    """Return the key or token in an Authorization header; empty if there is none (RFC 6750)."""
    scheme, _, given = authorization.partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


class NotAllowed(Refusal):
    """Refusal of a request. `code`: "unauthorized", or "rate_limited" with the seconds to wait."""


class Pass:
    """A request or stream that was let in, and the audio that is charged for it.

    `name`: of its key; None where none is needed.
    """

    def __init__(self, name: str | None, quota: Quota, refuse: Callable[[], None]) -> None:
        """Charge the quota of key `name`. `refuse` raises `NotAllowed` if its audio is used up."""
        self.name = name
        self._quota, self._refuse = quota, refuse
        self._recognised_s = self._charged_s = 0.0

    def expect(self, seconds: float) -> None:
        """Charge for `seconds` of audio in total, before they are recognised. Raises `NotAllowed`
        if other requests with the same key have used up its quota meanwhile."""
        self._refuse()
        self._charge(max(seconds, self._recognised_s))

    def charge(self, seconds: float) -> None:
        """Charge for `seconds` more of recognised audio."""
        self.charge_until(self._recognised_s + seconds)

    def charge_until(self, seconds: float) -> None:
        """Charge for `seconds` of recognised audio in total."""
        self._recognised_s = max(seconds, self._recognised_s)
        self._charge(max(self._recognised_s, self._charged_s))

    def close(self) -> None:
        """Return what was charged for and not recognised."""
        self._charge(self._recognised_s)

    def _charge(self, seconds: float) -> None:
        self._quota.charge(seconds - self._charged_s)
        self._charged_s = seconds


class AccessGate:
    """The gate of the whole server."""

    def __init__(self, settings: Callable[[], AuthSettings]) -> None:
        """Decide by the settings that `settings` returns, which may change."""
        self._settings = settings
        self._keyring: Keyring | None = None
        self._logged: str | None = None
        self._quotas: defaultdict[str, Quota] = defaultdict(Quota)
        self._secrets = ClientSecrets()

    @property
    def open(self) -> bool:
        """True if requests need no key."""
        return not self._settings().keys_file

    def check(self) -> None:
        """Check that the keys can be read. Raises `KeysUnreadable`."""
        if not self.open:
            self._ring(Path(self._settings().keys_file)).read()

    def who(self, authorization: str | None) -> str | None:
        """Return the name of the key in an Authorization header; None if no key is needed. Raises
        `NotAllowed`."""
        settings = self._settings()
        if not settings.keys_file:
            return None
        keyring = self._ring(Path(settings.keys_file))
        if not (key := bearer_of(authorization or "")):
            raise NotAllowed("unauthorized", "a key is required: send Authorization: Bearer KEY")
        name = keyring.name_of(key)
        self._tell(keyring.problem)
        if name is None:
            raise NotAllowed("unauthorized", "unknown key")
        return name

    def new_secret(self, content: ClientSecret) -> str:
        """Return a new client secret, made with the key of that name."""
        return self._secrets.new(content, self.stamp_of(content.name))

    def secret_of(self, authorization: str | None) -> ClientSecret | None:
        """Return the content of the client secret in an Authorization header; None for anything
        else. Raises `NotAllowed` for one that is not valid."""
        given = bearer_of(authorization or "")
        if not given.startswith(PREFIX):
            return None
        secret = self._secrets.read(given, self.stamp_of)
        if secret is None or (secret.name is None and not self.open):
            raise NotAllowed(
                "unauthorized", "unknown or expired client secret: request another one"
            )
        return secret

    def still_valid(self, name: str | None, stamp: str | None) -> bool:
        """Return whether the key of that name is the one that `stamp_of` was asked of before."""
        return name is None or self.open or self.stamp_of(name) == stamp

    def stamp_of(self, name: str | None) -> str | None:
        """Return what changes when the key of that name is revoked or replaced."""
        if name is None or self.open:
            return None
        return self._ring(Path(self._settings().keys_file)).hash_of(name)

    @contextlib.contextmanager
    def request(self, name: str | None, unfinished_jobs: int | None = None) -> Iterator[Pass]:
        """Count one request against the quota of key `name` while the context is open.
        `unfinished_jobs`: the unfinished jobs of that key, if the request adds one; None for other
        requests. Raises `NotAllowed`."""
        quota, now = self._quota(name), time.monotonic()
        if unfinished_jobs is None:
            _refuse(quota.request_refusal(self._allowed(), now))
        else:
            _refuse(quota.job_refusal(self._allowed(), unfinished_jobs, now))
        quota.requests += 1
        passed = self._pass(name, quota)
        try:
            yield passed
        finally:
            passed.close()
            quota.requests -= 1
            self._forget(name)

    @contextlib.contextmanager
    def stream(self, name: str | None) -> Iterator[Pass]:
        """Let one stream in. Raises `NotAllowed`."""
        quota = self._quota(name)
        _refuse(quota.stream_refusal(self._allowed(), time.monotonic()))
        quota.streams += 1
        try:
            yield self._pass(name, quota)
        finally:
            quota.streams -= 1
            self._forget(name)

    def charge(self, name: str | None, seconds: float) -> None:
        """Charge key `name` for `seconds` of audio that a job had recognised."""
        self._quota(name).charge(seconds)

    def _pass(self, name: str | None, quota: Quota) -> Pass:
        return Pass(
            name, quota, lambda: _refuse(quota.audio_refusal(self._allowed(), time.monotonic()))
        )

    def _quota(self, name: str | None) -> Quota:
        return Quota() if name is None else self._quotas[name]

    def _allowed(self) -> Allowed:
        settings = self._settings()
        if not settings.keys_file:
            return Allowed()
        return Allowed(
            settings.key_requests, settings.key_streams, settings.key_jobs, settings.key_audio_s
        )

    def _forget(self, name: str | None) -> None:
        """Drop the quota of a key that counts nothing any more."""
        found = self._quotas.get(name) if name is not None else None
        if found is not None and found == Quota():
            assert name is not None
            del self._quotas[name]

    def _ring(self, file: Path) -> Keyring:
        if self._keyring is None or self._keyring.file != file:
            self._keyring = Keyring(file)
        return self._keyring

    def _tell(self, problem: str | None) -> None:
        if problem != self._logged:
            self._logged = problem
            if problem is not None:
                log.error("keys.read_failed", reason=problem)
            else:
                log.info("keys.recovered")


def _refuse(refusal: tuple[str, float] | None) -> None:
    if refusal is not None:
        reason, wait_s = refusal
        raise NotAllowed("rate_limited", reason, wait_s)
