"""When a call is sent a second time before the first has answered.

gRPC's core, and so gRPC for Python, has no ``hedgingPolicy``: a service config with one is read past. The clients do
it themselves; here stands what they share.
"""

from __future__ import annotations

import threading

#: What gRPC's design of hedging throttles by: a burst of ten, and then one call in ten.
_MAX_TOKENS = 10.0
_TOKEN_RATIO = 0.1


class HedgeBudget:
    """Keeps second calls to a tenth of the first ones; thread-safe.

    A server that has become slow for everybody must not get twice as many calls.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens = _MAX_TOKENS

    def earn(self) -> None:
        """Note a first call."""
        with self._lock:
            self._tokens = min(self._tokens + _TOKEN_RATIO, _MAX_TOKENS)

    def spend(self) -> bool:
        """Whether a second call may be sent now; if so, it is counted."""
        with self._lock:
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True
