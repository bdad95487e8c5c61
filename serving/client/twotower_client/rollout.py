"""Which users the canary version serves: a fixed share of them, each user always on the same side."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from .errors import InvalidRequestError

STABLE = "stable"
CANARY = "canary"
_BUCKETS = 2**64


@dataclass(frozen=True)
class CanarySplit:
    """Sends `percent` of the users to the version labelled ``canary``, all others to ``stable``.

    A user's bucket is the first 8 bytes, big-endian, of the SHA-256 of ``salt``, a zero byte and the user's id, all in
    UTF-8. The user is on the canary side where bucket / 2**64 < percent / 100. Any process in any language finds the
    same side; a larger `percent` keeps the users that a smaller one had; another `salt` draws other users.

    A call without a user id is served by ``stable``.

    Attributes:
        percent: 0 to 100.
        salt: names the experiment.

    Raises:
        InvalidRequestError: `percent` is out of range.
    """

    percent: float
    salt: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.percent, (int, float)) or not 0 <= self.percent <= 100:
            raise InvalidRequestError(f"percent: expected 0 to 100, found {self.percent!r}")

    def label(self, user_id: str) -> str:
        """Return ``canary`` or ``stable``."""
        if not user_id:
            return STABLE
        digest = hashlib.sha256(f"{self.salt}\0{user_id}".encode()).digest()
        bucket = int.from_bytes(digest[:8], "big")
        return CANARY if bucket < self.percent / 100 * _BUCKETS else STABLE
