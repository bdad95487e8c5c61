"""The evaluation protocol: a split in time, every candidate ranked, and who and what counts.

Everything that is measured here (baselines, retrieval models, served lists) goes through one
``EvaluationProtocol``, so that the numbers are comparable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from twotower.features.timelines import Int32, Int64, Timelines
from twotower.models.metrics import Bool, ItemSets, RankingMetrics, check_lists, ranking_metrics

Task = Literal["all", "new"]
Scores: TypeAlias = npt.NDArray[np.floating[Any]]
ScoreBlock: TypeAlias = Callable[[Int64], Scores]

# Scores held at a time: 64 MiB of float32.
BLOCK_SCORES = 1 << 24


@dataclass(frozen=True)
class EvaluationProtocol:
    """What users buy after a split, ranked among all candidates.

    Candidates are the items that at least ``min_users`` distinct users bought in ``train``; with
    ``min_users`` 0 the whole catalogue, never bought items included. Two tasks:

    * ``"all"``: relevant are the distinct candidates in the user's ``labels``.
    * ``"new"``: the items that the user bought before the split are neither relevant nor candidates.

    A user is evaluated who bought a candidate before the split and has a relevant item after it.
    Rows out of vocabulary (``>= n_items``) are never candidates.

    Attributes:
        train: every user's events before the split; decides which items are candidates.
        history: the asked users' events strictly before the split.
        labels: the same users' events from the split on, row by row aligned with ``history``.
        n_items: size of the catalogue.
        min_users: distinct buyers that make an item a candidate.
        k: places of a list that count.
    """

    train: Timelines
    history: Timelines
    labels: Timelines
    n_items: int
    min_users: int
    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k: found {self.k}, expected at least 1")
        if self.history.n_users != self.labels.n_users:
            raise ValueError(
                f"labels: found {self.labels.n_users} users, expected {self.history.n_users} as in history"
            )
        both = (self.history.lengths > 0) & (self.labels.lengths > 0)
        last_known = self.history.times[self.history.offsets[1:][both] - 1]
        first_label = self.labels.times[self.labels.offsets[:-1][both]]
        late = np.flatnonzero(last_known >= first_label)
        if len(late):
            user = np.flatnonzero(both)[late[0]]
            raise ValueError(
                f"history: user row {user} has an event at {last_known[late[0]]}, expected all of them strictly "
                f"before the first label at {first_label[late[0]]}"
            )
        if not self.candidates.any():
            raise ValueError(f"min_users: no item of {self.n_items} was bought by {self.min_users} users of train")

    @cached_property
    def candidates(self) -> Bool:
        """[n_items] true for the items that may be recommended."""
        buyers = np.bincount(ItemSets.bought(self.train, self.n_items).indices, minlength=self.n_items)
        return buyers >= self.min_users

    @property
    def n_candidates(self) -> int:
        """Number of candidate items."""
        return int(np.count_nonzero(self.candidates))

    def relevant(self, task: Task) -> ItemSets:
        """The relevant items of every asked user; empty for the users that are not evaluated."""
        _check_task(task)
        known = ItemSets.bought(self.history, self.n_items)
        bought_candidate = np.bincount(
            known.users, weights=self.candidates[known.indices], minlength=self.history.n_users
        )
        labels = ItemSets.bought(self.labels, self.n_items)
        keep = self.candidates[labels.indices] & (bought_candidate > 0)[labels.users]
        if task == "new":
            keep &= ~known.contains(labels.users, labels.indices)
        return labels.where(keep)

    def evaluated_users(self, task: Task) -> Int64:
        """Rows of the evaluated users, ascending: the order of ``RankingMetrics.per_user``."""
        return np.flatnonzero(self.relevant(task).lengths)

    def evaluate_scores(self, score_block: ScoreBlock, task: Task) -> RankingMetrics:
        """Rank all candidates of every evaluated user, exactly, a block of users at a time.

        Equal scores rank by item row, lower first. A candidate with a score of -inf is not recommended.

        Args:
            score_block: takes user rows [b], gives scores [b, n_items], higher is better.
            task: ``"all"`` or ``"new"``.

        Raises:
            ValueError: scores of another shape or not a number, or no user to evaluate.
        """
        relevant = self.relevant(task)
        users = np.flatnonzero(relevant.lengths)
        lists = np.full((self.history.n_users, self.k), -1, dtype=np.int32)
        candidate_rows = np.flatnonzero(self.candidates)
        block = max(1, BLOCK_SCORES // self.n_items)
        for start in range(0, len(users), block):
            rows = users[start : start + block]
            every = score_block(rows)
            if every.shape != (len(rows), self.n_items):
                raise ValueError(
                    f"score_block: found scores of shape {list(every.shape)}, expected {[len(rows), self.n_items]}"
                )
            scores = every[:, candidate_rows]
            if np.isnan(scores).any():
                raise ValueError("score_block: found a score that is not a number")
            if task == "new":
                known = ItemSets.bought(self.history.select(rows), self.n_items)
                known = known.where(self.candidates[known.indices])
                scores[known.users, np.searchsorted(candidate_rows, known.indices)] = -np.inf
            best = top_k(scores, self.k)
            listed = np.take_along_axis(scores, best, axis=1) > -np.inf
            lists[rows, : best.shape[1]] = np.where(listed, candidate_rows[best], -1)
        return ranking_metrics(lists, relevant, self.n_candidates, self.k)

    def evaluate_lists(self, lists: Int32, task: Task) -> RankingMetrics:
        """Evaluate lists that were made elsewhere, such as served ones.

        Items that are no candidates (for ``"new"`` also those bought before the split) are dropped, the
        rest moves up, and the list is cut at ``k``: ask for more than ``k`` items if some will be dropped.

        Args:
            lists: [asked users, >= k] item rows, best first, padded with -1 at the end.
            task: ``"all"`` or ``"new"``.

        Raises:
            ValueError: lists of another shape, a repeated item, an item outside the catalogue, or no user to evaluate.
        """
        relevant = self.relevant(task)
        check_lists(lists, self.k)
        if len(lists) != self.history.n_users:
            raise ValueError(f"lists: found {len(lists)} rows, expected one for each of {self.history.n_users} users")
        if (lists >= self.n_items).any():
            raise ValueError(f"lists: found item row {lists.max()}, expected rows below the catalogue's {self.n_items}")
        keep = (lists >= 0) & self.candidates[lists]
        if task == "new":
            users = np.broadcast_to(np.arange(len(lists))[:, None], lists.shape)
            keep &= ~ItemSets.bought(self.history, self.n_items).contains(users, lists)
        kept_first = np.argsort(~keep, axis=1, kind="stable")
        kept = np.take_along_axis(np.where(keep, lists, -1), kept_first, axis=1)
        return ranking_metrics(kept, relevant, self.n_candidates, self.k)


def top_k(scores: Scores, k: int) -> Int64:
    """Columns of the ``min(k, n)`` highest scores of each row of [b, n], best first, ties by lower column."""
    if k >= scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    best = np.argpartition(scores, -k, axis=1)[:, -k:]
    lowest = np.take_along_axis(scores, best, axis=1).min(axis=1)
    tied_inside = np.count_nonzero(np.take_along_axis(scores, best, axis=1) == lowest[:, None], axis=1)
    tied = np.count_nonzero(scores == lowest[:, None], axis=1)
    # A partition picks any of the scores that tie for the last places: put the lowest columns there.
    for row in np.flatnonzero(tied > tied_inside):
        above = np.flatnonzero(scores[row] > lowest[row])
        best[row] = np.concatenate([above, np.flatnonzero(scores[row] == lowest[row])[: k - len(above)]])
    best.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def _check_task(task: str) -> None:
    if task not in get_args(Task):
        raise ValueError(f"task: found {task!r}, expected one of {', '.join(map(repr, get_args(Task)))}")
