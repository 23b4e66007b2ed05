"""The base of everything that a client may be told instead of an answer."""

from collections.abc import Mapping


class Refusal(Exception):
    """A request is refused, or has failed.

    `code` is stable and has its status in `modelserver.http.errors`; `retry_after_s` is None where
    waiting does not help. `supervisor.PoolError` has the same three attributes.
    """

    def __init__(
        self,
        code: str,
        message: str,
        retry_after_s: float | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Describe the refusal. `headers`: of the answer over HTTP."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})
