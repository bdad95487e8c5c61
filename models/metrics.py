"""Ranking metrics of recommendation lists: Recall, NDCG, MAP, MRR at k, and coverage.

Binary relevance. Each metric is the mean over the users who have a relevant item; with ``r`` such items and
the list cut at ``k``:

* Recall@k = hits / r
* NDCG@k = DCG@k / (DCG of min(k, r) hits in the first places), gain 1 / log2(1 + place)
  (Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques", 2002)
* MAP@k = sum over hits of precision at the hit's place / min(k, r)
* MRR@k = 1 / place of the first hit, 0 without one
* coverage = distinct recommended items / candidate items
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.features.timelines import Int32, Int64, Timelines

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


class ItemSets(NamedTuple):
    """A set of items for each user, in compressed sparse rows.

    Attributes:
        indptr: [users + 1] where each user's items start.
        indices: [pairs] item rows, distinct within a user.
    """

    indptr: Int64
    indices: Int32

    @classmethod
    def bought(cls, timelines: Timelines, n_items: int) -> ItemSets:
        """The distinct items of each user's events; events out of vocabulary (``>= n_items``) are left out."""
        known = timelines.items < n_items
        pairs = np.unique(_pairs(timelines.users[known], timelines.items[known]))
        counts = np.bincount(pairs >> 32, minlength=timelines.n_users)
        return cls(_indptr(counts), (pairs & 0xFFFFFFFF).astype(np.int32))

    @property
    def lengths(self) -> Int64:
        """[users] items of each user."""
        return np.diff(self.indptr)

    @property
    def users(self) -> Int64:
        """[pairs] the user row of each pair."""
        return np.repeat(np.arange(len(self.indptr) - 1), self.lengths)

    def contains(self, users: Int64, items: Int32) -> Bool:
        """True for each (user, item) pair of two arrays of one shape that is in the user's set; -1 never is."""
        return np.isin(_pairs(users, items), _pairs(self.users, self.indices))

    def where(self, keep: Bool) -> ItemSets:
        """The pairs with a true ``keep`` [pairs]; the users stay."""
        return ItemSets(_indptr(np.bincount(self.users[keep], minlength=len(self.lengths))), self.indices[keep])


@dataclass(frozen=True)
class UserMetrics:
    """The values whose means are a ``RankingMetrics``: one for each user with a relevant item, in row order."""

    recall: Float64
    ndcg: Float64
    average_precision: Float64
    reciprocal_rank: Float64


@dataclass(frozen=True)
class RankingMetrics:
    """Means over the users with a relevant item, of lists cut at ``k``. Fractions between 0 and 1."""

    k: int
    users: int
    recall: float
    ndcg: float
    map: float
    mrr: float
    coverage: float
    per_user: UserMetrics = field(repr=False, compare=False)


def ranking_metrics(lists: Int32, relevant: ItemSets, n_candidates: int, k: int) -> RankingMetrics:
    """Score ranked lists against what was relevant.

    Users without a relevant item are left out of every number, coverage included.

    Args:
        lists: [users, >= k] item rows, best first; a short list is padded with -1 at its end.
        relevant: the relevant items of the same users.
        n_candidates: how many items could have been recommended.
        k: places of each list that count.

    Raises:
        ValueError: lists of another shape than described, an item twice in a list or in a relevant set, more
            distinct recommended items than candidates, or no user with a relevant item.
    """
    check_lists(lists, k)
    if len(lists) != len(relevant.lengths):
        raise ValueError(f"lists: found {len(lists)} rows, expected one for each of {len(relevant.lengths)} users")
    if len(np.unique(_pairs(relevant.users, relevant.indices))) != len(relevant.indices):
        raise ValueError("relevant: found an item twice for one user, expected distinct items")
    asked = np.flatnonzero(relevant.lengths > 0)
    if len(asked) == 0:
        raise ValueError(f"relevant: none of {len(lists)} users has a relevant item, so there is nothing to measure")
    top = lists[asked, :k]
    n_relevant = relevant.lengths[asked]
    recommended = len(np.unique(top[top >= 0]))
    if recommended > n_candidates:
        raise ValueError(f"lists: found {recommended} distinct items, expected at most {n_candidates} candidates")

    hits = relevant.contains(np.broadcast_to(asked[:, None], top.shape), top)
    places = np.arange(1, k + 1)
    attainable = np.minimum(k, n_relevant)
    gain = 1 / np.log2(1 + places)
    # Both sums run left to right, so that a perfect list is exactly 1.
    ndcg = np.cumsum(hits * gain, axis=1)[:, -1] / np.cumsum(gain)[attainable - 1]
    precision = np.cumsum(hits, axis=1) / places
    per_user = UserMetrics(
        recall=hits.sum(axis=1) / n_relevant,
        ndcg=ndcg,
        average_precision=(hits * precision).sum(axis=1) / attainable,
        reciprocal_rank=np.where(hits.any(axis=1), 1 / (1 + hits.argmax(axis=1)), 0.0),
    )
    return RankingMetrics(
        k=k,
        users=len(asked),
        recall=float(per_user.recall.mean()),
        ndcg=float(per_user.ndcg.mean()),
        map=float(per_user.average_precision.mean()),
        mrr=float(per_user.reciprocal_rank.mean()),
        coverage=recommended / n_candidates,
        per_user=per_user,
    )


def check_lists(lists: Int32, k: int) -> None:
    """Raise ValueError unless ``lists`` is [users, >= k >= 1], distinct in each row and padded with -1 at the end."""
    if lists.ndim != 2 or not 1 <= k <= lists.shape[1]:
        raise ValueError(f"lists: found shape {list(lists.shape)} with k = {k}, expected [users, at least k >= 1]")
    if (lists < -1).any():
        raise ValueError(f"lists: found item row {lists.min()}, expected rows >= 0, or -1 for padding")
    if ((lists[:, :-1] == -1) & (lists[:, 1:] >= 0)).any():
        raise ValueError("lists: found an item after the padding -1, expected padding at the end only")
    ordered = np.sort(lists, axis=1)
    twice = np.argwhere((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0))
    if len(twice):
        row, column = twice[0]
        raise ValueError(f"lists: found item {ordered[row, column]} twice in row {row}, expected distinct items")


def _pairs(users: Int64, items: Int32) -> Int64:
    """One integer for each (user, item), ordered by user, then item."""
    return (users.astype(np.int64) << 32) + items


def _indptr(counts: Int64) -> Int64:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
