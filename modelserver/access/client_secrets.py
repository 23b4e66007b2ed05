"""Short-lived keys for browsers, as OpenAI's Realtime API has them: signed, and stored nowhere.

A secret is valid for sessions of that API alone, until it expires, the key that has made it is
revoked, or the server ends.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

import msgspec

PREFIX = "ek_"
_MAC_BYTES = hashlib.sha256().digest_size


class ClientSecret(msgspec.Struct, frozen=True, array_like=True):
    """The content of a secret: the name of the key that has made it (None where none is needed),
    when it expires, and the session's options as JSON."""

    name: str | None
    expires_at: int
    session: str


class ClientSecrets:
    """Makes and checks secrets."""

    def __init__(self) -> None:
        self._signing_key = secrets.token_bytes(32)

    def new(self, content: ClientSecret, stamp: str | None) -> str:
        """Return a new secret; `stamp` changes when the key that makes it is revoked."""
        payload = msgspec.json.encode(content)
        signed = self._mac(payload, stamp) + payload
        return PREFIX + base64.urlsafe_b64encode(signed).rstrip(b"=").decode()

    def read(
        self, secret: str, stamp_of: Callable[[str | None], str | None]
    ) -> ClientSecret | None:
        """Return the content of a secret; None if it was not made here, has expired, or the stamp
        of its key's name is another one now."""
        text = secret.removeprefix(PREFIX)
        try:
            signed = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            mac, payload = signed[:_MAC_BYTES], signed[_MAC_BYTES:]
            content = msgspec.json.decode(payload, type=ClientSecret)
        except (ValueError, msgspec.DecodeError, RecursionError):
            return None
        if not hmac.compare_digest(mac, self._mac(payload, stamp_of(content.name))):
            return None
        return content if time.time() < content.expires_at else None

    def _mac(self, payload: bytes, stamp: str | None) -> bytes:
        message = (stamp or "").encode() + b"\0" + payload
        return hmac.digest(self._signing_key, message, "sha256")
