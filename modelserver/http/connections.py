"""How many connections there may be: fewer than there are file descriptors, which everything else
needs too."""

import resource

_FOR_OTHERS = 96
"""Descriptors for the supervisor's own: channels, pidfds, logs, the admin side."""
_TOLD_WHY = 64
_SHARE = 0.75


class Connections:
    """Counts the open ones. `spools`: how many uploads may be held beside them."""

    def __init__(self, spools: int) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = max(int(soft * _SHARE) - spools - _TOLD_WHY - _FOR_OTHERS, soft // 4)
        self.open = 0

    @property
    def too_many(self) -> bool:
        """A request on one of these is refused, and its connection closed."""
        return self.open > self.most

    @property
    def beyond_hope(self) -> bool:
        """A connection is closed before its request is read."""
        return self.open > self.most + _TOLD_WHY
