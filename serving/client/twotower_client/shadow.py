"""Shadow calls: another version is asked the same, and its answers are compared and thrown away."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, Full, Queue
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .errors import InvalidRequestError
from .types import Recommendation

if TYPE_CHECKING:
    from .recommender import Recommender

_LOG = logging.getLogger(__name__)
_COMPARED_CALLS = frozenset({"recommend", "recommend_many", "retrieve", "rank", "similar_items"})
_THREADS = 2
_RECENT = 1000


@dataclass(frozen=True)
class Comparison:
    """An answer and its shadow.

    Attributes:
        call: the client's method.
        overlap: the share of the items that both lists have, of the longer list; 1 for two empty ones.
        rank_correlation: Spearman's, over the items that both lists have, -1 to 1; None for fewer than two.
        version: the model's version behind the answer.
        shadow_version: the one behind the shadow.
        seconds: what the answer took.
        shadow_seconds: what the shadow took.
        error: what the shadow failed with; what is told of it is then None but `shadow_seconds`.
    """

    call: str
    overlap: float | None
    rank_correlation: float | None
    version: int
    shadow_version: int | None
    seconds: float
    shadow_seconds: float
    error: Exception | None = None


@dataclass(frozen=True)
class ShadowSummary:
    """What all shadow calls so far have shown.

    Attributes:
        compared: lists that were compared.
        failed: lists whose shadow failed.
        dropped: calls that had no shadow, because too many were waiting.
        overlap: mean over the compared; None without any.
        rank_correlation: mean over those that have one.
        median_seconds: of the last 1,000 answers that have a shadow.
        median_shadow_seconds: of their shadows.
    """

    compared: int
    failed: int
    dropped: int
    overlap: float | None
    rank_correlation: float | None
    median_seconds: float | None
    median_shadow_seconds: float | None


@dataclass(frozen=True)
class _Offered:
    call: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    lists: Sequence[Recommendation]
    seconds: float


class Shadow:
    """Repeats the calls of a client on another one, in threads of its own, and compares the lists.

    The real answer has left before its shadow begins; it never waits for one, and no failure reaches it. What does not
    fit in the queue is dropped and counted. Embeddings have no shadow: those of two versions must not be compared.

    Example:
        >>> shadow = Shadow(Recommender("localhost:8500", label="canary"))
        >>> recommender = Recommender("localhost:8500", label="stable", shadow=shadow)

    Args:
        recommender: the client of the other version or server; it stays the caller's to close, after the shadow.
        report: called with every comparison, in a thread of the shadow's.
        queue_size: the most calls that may wait.
    """

    def __init__(
        self,
        recommender: Recommender,
        report: Callable[[Comparison], None] | None = None,
        queue_size: int = 100,
    ) -> None:
        if queue_size < 1:
            raise InvalidRequestError(f"queue_size: expected at least 1, found {queue_size!r}")
        self._recommender = recommender
        self._report = report
        self._queue: Queue[_Offered | None] = Queue(queue_size)
        self._changed = threading.Condition()
        self._unfinished = 0
        self._closed = False
        self._failed = self._dropped = 0
        self._overlap, self._correlation = _Mean(), _Mean()
        self._seconds: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_THREADS)]
        for thread in self._threads:
            thread.start()

    def offer(self, call: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], answer: Any, seconds: float) -> None:
        """Take note of an answered call; the clients do this. Never waits, never raises."""
        if call not in _COMPARED_CALLS or self._closed:
            return
        # Callers may reuse their lists. The shadow's own version, label and timeout hold.
        kept = {name: _copied(value) for name, value in kwargs.items() if name not in {"version", "label", "timeout"}}
        lists = answer if isinstance(answer, list) else [answer]
        offered = _Offered(call, tuple(_copied(value) for value in args), kept, lists, seconds)
        with self._changed:
            try:
                self._queue.put_nowait(offered)
                self._unfinished += 1
            except Full:
                self._dropped += 1

    def summary(self) -> ShadowSummary:
        """Return what has been seen so far."""
        with self._changed:
            return ShadowSummary(
                self._overlap.count,
                self._failed,
                self._dropped,
                self._overlap.mean(),
                self._correlation.mean(),
                _median([answer for answer, _ in self._seconds]),
                _median([shadow for _, shadow in self._seconds]),
            )

    def drain(self, timeout: float) -> bool:
        """Wait until no call waits for its shadow; False where that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._unfinished, timeout)

    def close(self) -> None:
        """Forget the calls that wait, and stop once those under way have ended. Again: nothing."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            while True:
                try:
                    self._queue.get_nowait()
                except Empty:
                    break
                self._unfinished -= 1
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Shadow:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while (offered := self._queue.get()) is not None:
            comparisons = self._comparisons(offered)
            try:
                if self._report is not None:
                    for comparison in comparisons:
                        self._report(comparison)
            except Exception:
                _LOG.exception("the report of a shadow call failed")
            with self._changed:
                self._unfinished -= 1
                self._changed.notify_all()

    def _comparisons(self, offered: _Offered) -> list[Comparison]:
        start = perf_counter()
        found: Any
        error: Exception | None = None
        try:
            found = getattr(self._recommender, offered.call)(*offered.args, **offered.kwargs)
        except Exception as caught:  # whatever it is, it must not end the thread
            found, error = [None] * len(offered.lists), caught
        seconds = perf_counter() - start
        lists = found if isinstance(found, list) else [found]
        comparisons = [
            _comparison(offered, answer, shadow, seconds, error)
            for answer, shadow in zip(offered.lists, lists, strict=True)
        ]
        with self._changed:
            for comparison in comparisons:
                if comparison.overlap is None:
                    self._failed += 1
                    continue
                self._overlap.add(comparison.overlap)
                if comparison.rank_correlation is not None:
                    self._correlation.add(comparison.rank_correlation)
            if error is None:
                self._seconds.append((offered.seconds, seconds))
        return comparisons


class _Mean:
    def __init__(self) -> None:
        self.count = 0
        self._sum = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self._sum += value

    def mean(self) -> float | None:
        return self._sum / self.count if self.count else None


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the share of the items that both lists have, of the longer list; 1 for two empty ones."""
    longer = max(len(set(first)), len(set(second)))
    return len(set(first) & set(second)) / longer if longer else 1.0


def rank_correlation(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Return Spearman's rank correlation over the items that both lists have; None for fewer than two."""
    common = set(first) & set(second)
    n = len(common)
    if n < 2:
        return None
    ranks = [
        {item: rank for rank, item in enumerate(dict.fromkeys(item for item in items if item in common))}
        for items in (first, second)
    ]
    squares = sum((ranks[0][item] - ranks[1][item]) ** 2 for item in common)
    return 1 - 6 * squares / (n * (n * n - 1))


def _comparison(
    offered: _Offered, answer: Recommendation, shadow: Recommendation | None, seconds: float, error: Exception | None
) -> Comparison:
    if shadow is None:
        return Comparison(offered.call, None, None, answer.model_version, None, offered.seconds, seconds, error)
    lists = [item.item_id for item in answer], [item.item_id for item in shadow]
    return Comparison(
        offered.call,
        overlap(*lists),
        rank_correlation(*lists),
        answer.model_version,
        shadow.model_version,
        offered.seconds,
        seconds,
    )


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, list) else value


def _median(values: list[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None
