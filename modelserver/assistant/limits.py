"""Limits on one client's questions to the language model: at once, and per minute. A value; the
caller passes the time."""

from collections import deque

from supervisor import counted

_MINUTE_S = 60.0
_MOST_KNOWN = 10_000


class QuestionLimits:
    """Counts by a key's name, or else by the client's address."""

    def __init__(self) -> None:
        self._asking: dict[str, int] = {}
        self._asked: dict[str, deque[float]] = {}

    def refusal(
        self, who: str, at_once: int, a_minute: int, now: float
    ) -> tuple[str, float] | None:
        """Return why one more question is refused, and in how many seconds it might be admitted."""
        if at_once and self._asking.get(who, 0) >= at_once:
            return f"{counted(at_once, 'question')} of yours in progress: wait for the answer", 2.0
        asked = self._asked.get(who)
        while asked and now - asked[0] >= _MINUTE_S:
            asked.popleft()
        if a_minute and asked and len(asked) >= a_minute:
            return (
                f"the limit of {counted(a_minute, 'question')} per minute is reached",
                _MINUTE_S - (now - asked[0]),
            )
        return None

    def begins(self, who: str, now: float) -> None:
        """Count a question that begins."""
        self._asking[who] = self._asking.get(who, 0) + 1
        if len(self._asked) >= _MOST_KNOWN:
            old = [one for one, times in self._asked.items() if now - times[-1] >= _MINUTE_S]
            for one in old or list(self._asked)[:1]:
                del self._asked[one]
        self._asked.setdefault(who, deque()).append(now)

    def ends(self, who: str) -> None:
        """Count a question that is answered or abandoned."""
        self._asking[who] -= 1
        if not self._asking[who]:
            del self._asking[who]
