"""Slices of an evaluation: groups of users, and groups of items, whose numbers an average would hide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from twotower.features.timelines import Int32, Int64, Timelines
from twotower.models.bootstrap import Interval, mean_interval
from twotower.models.metrics import Bool, Float64, ItemSets, Metric, ranking_metrics
from twotower.models.protocol import EvaluationProtocol, Task

# Fewer events than this are a new user's.
FEW_EVENTS = 5
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Slice:
    """Some users, or some items.

    A slice of users keeps their whole lists and labels. A slice of items keeps, of everybody's labels, those
    items: its users are the ones who bought one. Candidates and lists stay as they are.

    Attributes:
        group: what it is a slice by, such as ``age``.
        name: which one, such as ``45-54``.
        users: [asked users] the members; None for a slice of items.
        items: [n_items] the members; None for a slice of users.
    """

    group: str
    name: str
    users: Bool | None = None
    items: Bool | None = None

    def __post_init__(self) -> None:
        if (self.users is None) == (self.items is None):
            raise ValueError(f"slice {self.group} {self.name}: expected either users or items")

    def labels(self, relevant: ItemSets) -> ItemSets:
        """What of ``relevant`` [asked users] belongs to the slice."""
        if self.users is not None:
            return relevant.where(self.users[relevant.users])
        assert self.items is not None
        return relevant.where(self.items[relevant.indices])


@dataclass(frozen=True)
class SliceValues:
    """A metric of each user of a slice.

    Attributes:
        slice: which one.
        users: [n] asked users' rows, ascending.
        values: [n] the metric.
    """

    slice: Slice
    users: Int64
    values: Float64

    def interval(self, resamples: int, seed: int) -> Interval:
        """The bootstrap interval of the mean; at least one user is needed."""
        return mean_interval(self.values, resamples, seed)


@dataclass(frozen=True)
class Loss:
    """A slice that lost too much: its users, and the means of both models."""

    slice: Slice
    users: int
    ours: float
    theirs: float


def history_slices(history: Timelines) -> list[Slice]:
    """New users, and light, middle and heavy buyers: terciles of the number of events, new users left out."""
    events = history.lengths
    known = events >= FEW_EVENTS
    slices = [Slice("history", f"new: fewer than {FEW_EVENTS} events", users=~known)]
    if known.any():
        first, second = np.quantile(events[known], [1 / 3, 2 / 3], method="inverted_cdf").tolist()
        slices += [
            Slice("history", f"light: {FEW_EVENTS} to {first} events", users=known & (events <= first)),
            Slice("history", f"middle: {first + 1} to {second} events", users=(events > first) & (events <= second)),
            Slice("history", f"heavy: more than {second} events", users=known & (events > second)),
        ]
    # Where many have equally much, a third may be empty.
    return [slices[0], *(one for one in slices[1:] if one.users is not None and one.users.any())]


def new_item_slice(train: Timelines, n_items: int, end: int, days: int) -> Slice:
    """Items first sold in the ``days`` before training ends (``end``, unix seconds), or never before it."""
    known = train.items < n_items
    first = np.full(n_items, np.iinfo(np.int64).max)
    np.minimum.at(first, train.items[known], train.times[known])
    name = f"new: first sold in the last {days} days of training, or not in it"
    return Slice("items", name, items=first >= end - days * 86_400)


def label_slices(group: str, labels: Int64, names: Sequence[str], of: Literal["users", "items"]) -> list[Slice]:
    """A slice for each label that occurs.

    Args:
        group: the feature's name.
        labels: [users] or [items] indices of ``names``; one outside is "unknown".
        names: of the labels.
        of: what has the labels.
    """
    every = [*names, UNKNOWN]
    inside = np.where((labels >= 0) & (labels < len(names)), labels, len(names))
    return [Slice(group, every[label], **{of: inside == label}) for label in np.unique(inside)]


def slice_values(
    protocol: EvaluationProtocol, lists: Int32, task: Task, k: int, metric: Metric, slices: Sequence[Slice]
) -> Iterator[SliceValues]:
    """The metric of every user of every slice; a slice may turn out to have none.

    Users without a history count here, so that new users can be judged.

    Args:
        protocol: candidates and labels.
        lists: [asked users, >= k] item rows, as ``EvaluationProtocol.evaluate_lists`` takes them, for newcomers too.
        task: ``"all"`` or ``"new"``.
        k: places that count.
        metric: what to compute.
        slices: of users or items.

    Raises:
        ValueError: no user at all has a relevant item, or as ``EvaluationProtocol.evaluate_lists`` does.
    """
    everybody = replace(protocol, newcomers=True)
    kept = everybody.kept(lists, task, k)
    relevant = everybody.relevant(task)
    users = np.flatnonzero(relevant.lengths)
    values = ranking_metrics(kept, relevant, everybody.n_candidates, k).per_user.of(metric)
    for one in slices:
        theirs = one.labels(relevant)
        members = np.flatnonzero(theirs.lengths)
        if one.users is not None:
            yield SliceValues(one, members, values[np.searchsorted(users, members)])
        elif len(members):
            found = ranking_metrics(kept[members], theirs.select(members), everybody.n_candidates, k)
            yield SliceValues(one, members, found.per_user.of(metric))
        else:
            yield SliceValues(one, members, np.empty(0))


def losses(
    ours: Sequence[SliceValues],
    theirs: Sequence[SliceValues],
    tolerance: float,
    min_users: int,
    resamples: int,
    seed: int,
) -> Iterator[Loss]:
    """The slices in which ``ours`` surely lost more than ``tolerance`` of the mean of ``theirs``.

    Surely: the paired bootstrap interval of ``ours - (1 - tolerance) * theirs``, of the same users, lies below 0.
    A slice of fewer than ``min_users`` users is never among them.

    Raises:
        ValueError: the two are not of the same slices and users.
    """
    for mine, other in zip(ours, theirs, strict=True):
        if mine.slice is not other.slice or not np.array_equal(mine.users, other.users):
            raise ValueError(f"slice {mine.slice.group} {mine.slice.name}: found two models with other users")
        if len(mine.users) < max(1, min_users):
            continue
        difference = mine.values - (1 - tolerance) * other.values
        if mean_interval(difference, resamples, seed).high < 0:
            yield Loss(mine.slice, len(mine.users), float(mine.values.mean()), float(other.values.mean()))
