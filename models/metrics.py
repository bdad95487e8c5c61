"""Accuracy of recommendation lists: recall, precision, hit rate, NDCG, MAP and MRR at k; and coverage.

Binary relevance. Each metric is the mean over the users who have a relevant item; with ``r`` such items and
the list cut at ``k``:

* Recall@k = hits / r; precision@k = hits / k, for a shorter list too; hit rate@k = 1 with a hit, else 0
  (Herlocker et al., "Evaluating collaborative filtering recommender systems", 2004; Deshpande and Karypis,
  "Item-based top-N recommendation algorithms", 2004)
* NDCG@k = DCG@k / (DCG of min(k, r) hits in the first places), gain 1 / log2(1 + place)
  (Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques", 2002)
* MAP@k = sum over hits of precision at the hit's place / min(k, r)
  (Manning et al., "Introduction to Information Retrieval", 2008, section 8.4, cut at k)
* MRR@k = 1 / place of the first hit, 0 without one (Voorhees, "The TREC-8 question answering track report", 1999)
* coverage = distinct recommended items / candidate items (Ge et al., "Beyond accuracy", 2010)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.features.timelines import Int32, Int64, Timelines

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]
Metric = Literal["recall", "precision", "hit_rate", "ndcg", "map", "mrr"]


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
        own = np.sort(_pairs(self.users, self.indices))
        if not len(own):
            return np.zeros(items.shape, dtype=bool)
        asked = _pairs(users, items)
        nearest = own[np.minimum(np.searchsorted(own, asked), len(own) - 1)]
        there: Bool = (nearest == asked) & (items >= 0)
        return there

    def select(self, users: Int64) -> ItemSets:
        """The sets of the given user rows, in that order."""
        lengths = self.lengths[users]
        indptr = _indptr(lengths)
        return ItemSets(
            indptr, self.indices[np.repeat(self.indptr[users] - indptr[:-1], lengths) + np.arange(indptr[-1])]
        )

    def where(self, keep: Bool) -> ItemSets:
        """The pairs with a true ``keep`` [pairs]; the users stay."""
        return ItemSets(_indptr(np.bincount(self.users[keep], minlength=len(self.lengths))), self.indices[keep])


@dataclass(frozen=True)
class UserMetrics:
    """The values whose means are a ``RankingMetrics``: one for each user with a relevant item, in row order."""

    recall: Float64
    precision: Float64
    hit_rate: Float64
    ndcg: Float64
    average_precision: Float64
    reciprocal_rank: Float64

    def of(self, metric: Metric) -> Float64:
        """[users] the values whose mean is ``metric``."""
        names = {"map": "average_precision", "mrr": "reciprocal_rank"}
        values: Float64 = getattr(self, names.get(metric, metric))
        return values


@dataclass(frozen=True)
class RankingMetrics:
    """Means over the users with a relevant item, of lists cut at ``k``. Fractions between 0 and 1."""

    k: int
    users: int
    recall: float
    precision: float
    hit_rate: float
    ndcg: float
    map: float
    mrr: float
    coverage: float
    per_user: UserMetrics = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a metric that was never updated; raises ValueError."""
        for name in ("recall", "precision", "hit_rate", "ndcg", "map", "mrr", "coverage"):
            value = getattr(self, name)
            if not (self.users and math.isfinite(value)):
                raise ValueError(f"{name}@{self.k}: found {value} over {self.users} users, expected a measured number")

    def of(self, metric: Metric) -> float:
        """The mean of ``metric``."""
        value: float = getattr(self, metric)
        return value


def ranking_metrics(lists: Int32, relevant: ItemSets, n_candidates: int, k: int) -> RankingMetrics:
    """``ranking_metrics_at`` one cut-off."""
    return ranking_metrics_at(lists, relevant, n_candidates, [k])[0]


def ranking_metrics_at(
    lists: Int32, relevant: ItemSets, n_candidates: int, cutoffs: Sequence[int]
) -> list[RankingMetrics]:
    """Score ranked lists against what was relevant, once for each cut-off.

    Users without a relevant item are left out of every number, coverage included.

    Args:
        lists: [users, >= the largest cut-off] item rows, best first; a short list is padded with -1 at its end.
        relevant: the relevant items of the same users.
        n_candidates: how many items could have been recommended.
        cutoffs: places of each list that count.

    Raises:
        ValueError: lists of another shape than described, an item twice in a list or in a relevant set, more
            distinct recommended items than candidates, or no user with a relevant item.
    """
    for k in cutoffs:
        check_lists(lists, k)
    if len(lists) != len(relevant.lengths):
        raise ValueError(f"lists: found {len(lists)} rows, expected one for each of {len(relevant.lengths)} users")
    pairs = np.sort(_pairs(relevant.users, relevant.indices))
    if (pairs[1:] == pairs[:-1]).any():
        raise ValueError("relevant: found an item twice for one user, expected distinct items")
    asked = np.flatnonzero(relevant.lengths > 0)
    if len(asked) == 0:
        raise ValueError(f"relevant: none of {len(lists)} users has a relevant item, so there is nothing to measure")
    top = lists[asked, : max(cutoffs)]
    n_relevant = relevant.lengths[asked]
    hits = relevant.contains(np.broadcast_to(asked[:, None], top.shape), top)
    places = np.arange(1, top.shape[1] + 1)
    gain = 1 / np.log2(1 + places)
    # All sums run left to right, so that a perfect list is exactly 1.
    found, gained, ideal = np.cumsum(hits, axis=1), np.cumsum(hits * gain, axis=1), np.cumsum(gain)
    precisions = np.cumsum(hits * (found / places), axis=1)
    first = np.where(hits.any(axis=1), 1 + hits.argmax(axis=1), np.inf)
    measured = []
    for k in cutoffs:
        seen = np.zeros(max(int(top.max(initial=0)) + 1, 1), dtype=bool)
        seen[top[:, :k][top[:, :k] >= 0]] = True
        recommended = int(np.count_nonzero(seen))
        if recommended > n_candidates:
            raise ValueError(f"lists: found {recommended} distinct items, expected at most {n_candidates} candidates")
        attainable = np.minimum(k, n_relevant)
        per_user = UserMetrics(
            recall=found[:, k - 1] / n_relevant,
            precision=found[:, k - 1] / k,
            hit_rate=(found[:, k - 1] > 0).astype(np.float64),
            ndcg=gained[:, k - 1] / ideal[attainable - 1],
            average_precision=precisions[:, k - 1] / attainable,
            reciprocal_rank=np.where(first <= k, 1 / first, 0.0),
        )
        measured.append(
            RankingMetrics(
                k=k,
                users=len(asked),
                recall=float(per_user.recall.mean()),
                precision=float(per_user.precision.mean()),
                hit_rate=float(per_user.hit_rate.mean()),
                ndcg=float(per_user.ndcg.mean()),
                map=float(per_user.average_precision.mean()),
                mrr=float(per_user.reciprocal_rank.mean()),
                coverage=recommended / n_candidates,
                per_user=per_user,
            )
        )
    return measured


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
