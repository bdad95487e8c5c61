"""Ranking one positive among a few sampled negatives: only for comparison with papers that report nothing else.

He et al., "Neural Collaborative Filtering" (2017), rank each user's last item among 99 others. Krichene and
Rendle, "On Sampled Metrics for Item Recommendation" (2020), show that such numbers need not order models as
ranking the whole catalogue does: they are called "sampled" wherever they stand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from twotower.features.timelines import Float32, Int32, Int64
from twotower.models.metrics import ItemSets
from twotower.models.splits import check_disjoint
from twotower.models.top_k import Scores

# User rows [b] and item rows [b, n] to scores [b, n], higher is better.
ScorePairs = Callable[[Int64, Int32], Scores]
BLOCK = 4096


@dataclass(frozen=True)
class SampledMetrics:
    """Means over the cases: HR@k = the positive is among the first ``k``, NDCG@k = 1 / log2(1 + its place) then."""

    k: int
    cases: int
    negatives: int
    hit_rate: float
    ndcg: float

    @property
    def protocol(self) -> str:
        """What every table must call it."""
        return f"sampled: 1 positive among {self.negatives} negatives"


@dataclass(frozen=True)
class SampledNegatives:
    """Cases of one positive and its given negatives.

    Ties go against the model: a negative with the positive's score stands before it, so that equal scores for
    everything are worth nothing.

    Attributes:
        users: [cases] user rows.
        positives: [cases] item rows.
        negatives: [cases, n] item rows; -1 stands for none.
    """

    users: Int64
    positives: Int32
    negatives: Int32

    def __post_init__(self) -> None:
        cases = len(self.users)
        if not cases:
            raise ValueError("users: found no case, so there is nothing to measure")
        if self.positives.shape != (cases,) or self.negatives.ndim != 2 or self.negatives.shape[0] != cases:
            found = f"{list(self.positives.shape)} and {list(self.negatives.shape)}"
            raise ValueError(f"positives, negatives: found shapes {found}, expected [{cases}] and [{cases}, n]")
        both = np.flatnonzero((self.negatives == self.positives[:, None]).any(axis=1))
        if len(both):
            raise ValueError(f"negatives: case {both[0]} has its positive, item {self.positives[both[0]]}, among them")

    def check_unseen(self, train: ItemSets) -> None:
        """Raise ValueError where a positive is in its user's training items (leakage)."""
        check_disjoint(train, self.users, self.positives)

    def evaluate_scores(self, score_pairs: ScorePairs, k: int) -> SampledMetrics:
        """Rank each positive among its negatives.

        Args:
            score_pairs: takes user rows [b] and item rows [b, 1 + n], gives scores of the latter's shape.
            k: places that count.

        Raises:
            ValueError: scores of another shape or not a number, or ``k`` below 1.
        """
        if k < 1:
            raise ValueError(f"k: found {k}, expected at least 1")
        # Where there is no negative the positive is asked twice, and the second answer does not count.
        absent = self.negatives < 0
        others = np.where(absent, self.positives[:, None], self.negatives)
        items = np.concatenate([self.positives[:, None], others], axis=1)
        places = []
        for start in range(0, len(self.users), BLOCK):
            asked = items[start : start + BLOCK]
            scores = score_pairs(self.users[start : start + BLOCK], asked)
            if scores.shape != asked.shape:
                raise ValueError(
                    f"score_pairs: found scores of shape {list(scores.shape)}, expected {list(asked.shape)}"
                )
            if np.isnan(scores).any():
                raise ValueError("score_pairs: found a score that is not a number")
            before = (scores[:, 1:] >= scores[:, :1]) & ~absent[start : start + BLOCK]
            places.append(1 + np.count_nonzero(before, axis=1))
        place = np.concatenate(places)
        gain = np.where(place <= k, 1 / np.log2(1 + place), 0.0)
        return SampledMetrics(k, len(place), self.negatives.shape[1], float(np.mean(place <= k)), float(gain.mean()))

    def evaluate_vectors(self, queries: Float32, items: Float32, k: int) -> SampledMetrics:
        """The same for dot products of ``queries`` [users, dim] and ``items`` [n_items, dim]."""
        return self.evaluate_scores(lambda users, rows: np.einsum("bd,bnd->bn", queries[users], items[rows]), k)
