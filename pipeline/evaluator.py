"""All that a run measures of a model's lists: accuracy at every cut-off, what the lists are like, and slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import get_args

import numpy as np

from twotower.features.spec import CategoryFeature, Spec
from twotower.features.timelines import Int32
from twotower.models.beyond_accuracy import Audience, beyond_accuracy, content_vectors
from twotower.models.metrics import ItemSets, Metric
from twotower.models.moments import request_times, training_end
from twotower.models.protocol import EvaluationProtocol, Task
from twotower.models.slices import (
    UNKNOWN,
    Slice,
    SliceValues,
    history_slices,
    label_slices,
    new_item_slice,
    slice_values,
)
from twotower.models.splits import split_protocol
from twotower.models.tables import Catalogue, Users
from twotower.models.transformed import Transformed
from twotower.pipeline.scores import Score, Scores, SliceScore

TASKS: tuple[Task, ...] = ("all", "new")
# Lists [asked users, >= the largest cut-off] of a protocol's candidates; newcomers have one too.
Rank = Callable[[EvaluationProtocol, Task], Int32]


class Evaluator:
    """Measures models on the same users, candidate sets and slices, and keeps the scores.

    Args:
        spec: what to measure; ``spec.split`` says what the test is.
        data: the transformed examples.

    Raises:
        ValueError: an event on the wrong side of the split, or a slice that the spec names and that has no users.
    """

    def __init__(self, spec: Spec, data: Transformed) -> None:
        self._spec = spec
        self.catalogue: Catalogue = data.catalogue()
        self.train: Users = data.users("train")
        self.asked: Users = data.asked()
        n_items = len(self.catalogue)
        self.sets = {
            chosen.name: split_protocol(
                spec.split, self.train, self.asked, n_items, chosen.min_users, max(spec.evaluation.cutoffs)
            )
            for chosen in spec.evaluation.candidates
        }
        self.request_times = request_times(spec.split, self.asked.labels)
        self.slices = _slices(spec, data, self.catalogue, self.train, self.asked)
        self.per_user: dict[tuple[str, Task], list[SliceValues]] = {}
        self._audience = Audience.of(self.train.history, n_items)
        self._history = ItemSets.bought(self.asked.history, n_items)
        self._vectors = content_vectors(self.catalogue, spec.item_features)
        self._scores: list[Score] = []
        self._slice_scores: list[SliceScore] = []
        _check_named(spec, self.slices, next(iter(self.sets.values())))

    @property
    def main(self) -> str:
        """The name of the candidate set that decides."""
        return self._spec.evaluation.candidates[0].name

    @property
    def scores(self) -> Scores:
        """Everything measured so far."""
        return Scores(self._scores, self._slice_scores)

    def measure(self, model: str, rank: Rank, tasks: Sequence[Task] = TASKS) -> None:
        """Measure a model's lists on every candidate set and task, and on the main set's slices.

        Raises:
            ValueError: nobody to evaluate, or bad lists.
        """
        chosen = self._spec.evaluation
        for name, protocol in self.sets.items():
            for task in tasks:
                lists = rank(replace(protocol, newcomers=True), task)
                self._scores.append(self._score(model, name, protocol, task, lists))
                if name == self.main:
                    found = list(slice_values(protocol, lists, task, chosen.cutoffs[0], chosen.metric, self.slices))
                    self.per_user[model, task] = found
                    self._slice_scores += [self._slice_score(model, task, one) for one in found]

    def _score(self, model: str, name: str, protocol: EvaluationProtocol, task: Task, lists: Int32) -> Score:
        cutoffs = self._spec.evaluation.cutoffs
        lists = protocol.kept(lists, task, max(cutoffs))
        found = protocol.evaluate_at(lists, task, cutoffs)
        users = protocol.evaluated_users(task)
        like = beyond_accuracy(
            lists[users],
            self._history.select(users),
            self._audience,
            protocol.n_candidates,
            cutoffs[0],
            self._vectors,
        )
        values: dict[str, float | None] = {
            f"{metric}@{one.k}": one.of(metric) for one in found for metric in get_args(Metric)
        }
        values |= {"coverage": found[0].coverage, **asdict(like)}
        return Score(model, name, task, len(users), values)

    def _slice_score(self, model: str, task: Task, found: SliceValues) -> SliceScore:
        chosen, users = self._spec.evaluation, len(found.users)
        judged = users >= chosen.min_slice_users
        where = (model, task, found.slice.group, found.slice.name, users)
        if not users:
            return SliceScore(*where, value=None, low=None, high=None, judged=False)
        low, high = found.interval(chosen.resamples, self._spec.seed)
        return SliceScore(*where, value=float(found.values.mean()), low=low, high=high, judged=judged)


def _slices(spec: Spec, data: Transformed, catalogue: Catalogue, train: Users, asked: Users) -> list[Slice]:
    slices = history_slices(asked.history)
    labels = [name for name, feature in spec.user_features.items() if isinstance(feature, CategoryFeature)]
    for name in labels if spec.evaluation.user_slices is None else spec.evaluation.user_slices:
        key = f"user_{name}"
        slices += label_slices(name, asked.features[key].astype(np.int64), data.names(key), "users")
    end = training_end(spec.split, train.history)
    slices.append(new_item_slice(train.history, len(catalogue), end, spec.evaluation.new_item_days))
    if spec.evaluation.item_slices is not None:
        key = f"item_{spec.evaluation.item_slices}"
        slices += label_slices(
            spec.evaluation.item_slices, catalogue.features[key].astype(np.int64), data.names(key), "items"
        )
    return slices


def _check_named(spec: Spec, slices: Sequence[Slice], protocol: EvaluationProtocol) -> None:
    """Raise ValueError where nobody who is evaluated is in any known slice of a group that the spec names."""
    relevant = replace(protocol, newcomers=True).relevant("all")
    named = [("user_slices", name) for name in spec.evaluation.user_slices or ()]
    if spec.evaluation.item_slices is not None:
        named.append(("item_slices", spec.evaluation.item_slices))
    for key, group in named:
        known = [one for one in slices if one.group == group and one.name != UNKNOWN]
        if not any(len(one.labels(relevant).indices) for one in known):
            raise ValueError(
                f"evaluation.{key}: the slices by '{group}' have no users: none of "
                f"{np.count_nonzero(relevant.lengths):,} evaluated users has a known value of it"
            )
