"""The evaluation protocol: every candidate ranked, exactly, and who and what counts.

Everything that is measured on whole lists (baselines, retrieval models, served lists) goes through one
``EvaluationProtocol``, so that the numbers are comparable. ``twotower.models.splits`` makes the usual ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias, get_args

import numpy as np

from twotower.features.timelines import Float32, Int32, Int64, Timelines
from twotower.models.metrics import Bool, ItemSets, RankingMetrics, check_lists, ranking_metrics_at
from twotower.models.top_k import BLOCK_SCORES, Scores, top_k

Task = Literal["all", "new"]
ScoreBlock: TypeAlias = Callable[[Int64], Scores]
QueryBlock: TypeAlias = Callable[[Int64], Float32]


@dataclass(frozen=True)
class EvaluationProtocol:
    """What users buy after a split, ranked among all candidates.

    Candidates are the items that at least ``min_users`` distinct users bought in ``train``; with
    ``min_users`` 0 the whole catalogue, never bought items included. Two tasks:

    * ``"all"``: relevant are the distinct candidates in the user's ``labels``.
    * ``"new"``: the items that the user bought before the split are neither relevant nor candidates.

    A user is evaluated who bought a candidate before the split and has a relevant item after it; with
    ``newcomers`` also who bought none before. Rows out of vocabulary (``>= n_items``) are never candidates.

    Attributes:
        train: every user's events before the split; decides which items are candidates.
        history: the asked users' events strictly before the split.
        labels: the same users' events from the split on, row by row aligned with ``history``.
        n_items: size of the catalogue.
        min_users: distinct buyers that make an item a candidate.
        k: places of a list that count.
        newcomers: whether users without a candidate in their history are evaluated.
    """

    train: Timelines
    history: Timelines
    labels: Timelines
    n_items: int
    min_users: int
    k: int
    newcomers: bool = False

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
        labels = ItemSets.bought(self.labels, self.n_items)
        keep = self.candidates[labels.indices]
        if not self.newcomers:
            known = self._known
            bought = np.bincount(known.users, weights=self.candidates[known.indices], minlength=self.history.n_users)
            keep &= (bought > 0)[labels.users]
        if task == "new":
            keep &= ~self._known.contains(labels.users, labels.indices)
        return labels.where(keep)

    def evaluated_users(self, task: Task) -> Int64:
        """Rows of the evaluated users, ascending: the order of ``RankingMetrics.per_user``."""
        return np.flatnonzero(self.relevant(task).lengths)

    def evaluate_scores(self, score_block: ScoreBlock, task: Task) -> RankingMetrics:
        """Evaluate the lists of ``rank_scores``; no user to evaluate raises ValueError too."""
        return self.evaluate_lists(self.rank_scores(score_block, task), task)

    def evaluate_vectors(self, queries: Float32 | QueryBlock, items: Float32, task: Task) -> RankingMetrics:
        """Evaluate the lists of ``rank_vectors``; no user to evaluate raises ValueError too."""
        return self.evaluate_lists(self.rank_vectors(queries, items, task), task)

    def rank_scores(self, score_block: ScoreBlock, task: Task) -> Int32:
        """Rank all candidates of every evaluated user, exactly, a block of users at a time.

        Equal scores rank by item row, lower first. A candidate with a score of -inf is not recommended.

        Args:
            score_block: takes user rows [b], gives scores [b, n_items], higher is better.
            task: ``"all"`` or ``"new"``.

        Returns:
            [asked users, k] item rows, best first, padded with -1; all -1 for users that are not evaluated.

        Raises:
            ValueError: scores of another shape or not a number.
        """

        def candidate_scores(rows: Int64) -> Scores:
            every = score_block(rows)
            if every.shape != (len(rows), self.n_items):
                raise ValueError(
                    f"score_block: found scores of shape {list(every.shape)}, expected {[len(rows), self.n_items]}"
                )
            scores = np.take(every, self._candidate_rows, axis=1) if self._some else np.array(every)
            if np.isnan(scores).any():
                raise ValueError("score_block: found a score that is not a number")
            return scores

        return self._rank(candidate_scores, task)

    def rank_vectors(self, queries: Float32 | QueryBlock, items: Float32, task: Task) -> Int32:
        """The same where a score is a dot product, in float32.

        Args:
            queries: [asked users, dim], or a function from user rows [b] to [b, dim].
            items: [n_items, dim].
            task: ``"all"`` or ``"new"``.

        Returns:
            As ``rank_scores``.

        Raises:
            ValueError: vectors of another shape or not finite.
        """
        if items.ndim != 2 or len(items) != self.n_items:
            raise ValueError(f"items: found shape {list(items.shape)}, expected [{self.n_items}, dim]")
        if not callable(queries) and queries.shape != (self.history.n_users, items.shape[1]):
            expected = [self.history.n_users, items.shape[1]]
            raise ValueError(f"queries: found shape {list(queries.shape)}, expected {expected}")
        chosen = np.asarray(items[self._candidate_rows] if self._some else items, dtype=np.float32)
        if not np.isfinite(chosen).all():
            raise ValueError("items: found a vector that is not finite")

        def candidate_scores(rows: Int64) -> Scores:
            block = np.asarray(queries(rows) if callable(queries) else queries[rows], dtype=np.float32)
            if block.shape != (len(rows), items.shape[1]):
                expected = [len(rows), items.shape[1]]
                raise ValueError(f"queries: found a block of shape {list(block.shape)}, expected {expected}")
            if not np.isfinite(block).all():
                raise ValueError("queries: found a vector that is not finite")
            scores: Scores = block @ chosen.T
            return scores

        return self._rank(candidate_scores, task)

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
        return self.evaluate_at(lists, task, [self.k])[0]

    def evaluate_at(self, lists: Int32, task: Task, cutoffs: Sequence[int]) -> list[RankingMetrics]:
        """``evaluate_lists`` at several cut-offs, which may not be longer than the lists."""
        kept = self.kept(lists, task, max(cutoffs))
        return ranking_metrics_at(kept, self.relevant(task), self.n_candidates, cutoffs)

    def kept(self, lists: Int32, task: Task, k: int) -> Int32:
        """What is measured of ``lists`` [asked users, >= k]: the same shape, candidates only, moved up."""
        _check_task(task)
        check_lists(lists, k)
        if len(lists) != self.history.n_users:
            raise ValueError(f"lists: found {len(lists)} rows, expected one for each of {self.history.n_users} users")
        if (lists >= self.n_items).any():
            raise ValueError(f"lists: found item row {lists.max()}, expected rows below the catalogue's {self.n_items}")
        keep = (lists >= 0) & self.candidates[lists]
        if task == "new":
            users = np.broadcast_to(np.arange(len(lists))[:, None], lists.shape)
            keep &= ~self._known.contains(users, lists)
        kept_first = np.argsort(~keep, axis=1, kind="stable")
        return np.take_along_axis(np.where(keep, lists, -1), kept_first, axis=1)

    @cached_property
    def _known(self) -> ItemSets:
        return ItemSets.bought(self.history, self.n_items)

    @cached_property
    def _candidate_rows(self) -> Int64:
        return np.flatnonzero(self.candidates)

    @property
    def _some(self) -> bool:
        """Whether the candidates are not the whole catalogue."""
        return len(self._candidate_rows) < self.n_items

    def _rank(self, candidate_scores: ScoreBlock, task: Task) -> Int32:
        """Lists from writable blocks of scores [b, candidates]."""
        users = self.evaluated_users(task)
        rows = self._candidate_rows
        lists = np.full((self.history.n_users, self.k), -1, dtype=np.int32)
        known = self._known.where(self.candidates[self._known.indices])
        block = max(1, BLOCK_SCORES // self.n_items)
        for start in range(0, len(users), block):
            asked = users[start : start + block]
            scores = candidate_scores(asked)
            if task == "new":
                theirs = known.select(asked)
                scores[theirs.users, np.searchsorted(rows, theirs.indices)] = -np.inf
            best = top_k(scores, self.k)
            listed = np.take_along_axis(scores, best, axis=1) > -np.inf
            lists[asked, : best.shape[1]] = np.where(listed, rows[best], -1)
        return lists


def _check_task(task: str) -> None:
    if task not in get_args(Task):
        raise ValueError(f"task: found {task!r}, expected one of {', '.join(map(repr, get_args(Task)))}")
