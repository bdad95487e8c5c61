"""The usual ways to hold purchases out for a test, as ``EvaluationProtocol``s; none lets the answer into training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twotower.features.spec import Split, TimeSplit
from twotower.features.timelines import Int32, Int64, Timelines
from twotower.models.metrics import ItemSets
from twotower.models.moments import request_times
from twotower.models.protocol import EvaluationProtocol
from twotower.models.tables import Users


def time_split(
    train: Timelines, history: Timelines, labels: Timelines, split: int, n_items: int, min_users: int, k: int
) -> EvaluationProtocol:
    """One moment for everybody: what was bought before it is known, what is bought from it on is the test.

    Args:
        train: every user's events before ``split``.
        history: the asked users' events before ``split``.
        labels: the same users' events from ``split`` on.
        split: unix seconds.
        n_items, min_users, k: as ``EvaluationProtocol`` has them.

    Raises:
        ValueError: an event is on the wrong side of the split, or as ``EvaluationProtocol`` does.
    """
    for name, events in (("train", train), ("history", history)):
        late = events.times[events.times >= split]
        if len(late):
            raise ValueError(
                f"{name}: found an event at {late.min()}, expected all strictly before the split at {split}"
            )
    early = labels.times[labels.times < split]
    if len(early):
        raise ValueError(f"labels: found an event at {early.min()}, expected none before the split at {split}")
    return EvaluationProtocol(train, history, labels, n_items, min_users, k)


def split_protocol(
    split: Split, train: Users, asked: Users, n_items: int, min_users: int, k: int
) -> EvaluationProtocol:
    """The protocol of a spec's ``split``, as ingest left its users.

    Args:
        split: its kind.
        train: who is trained on, with what is known of them.
        asked: who is asked, with their labels.
        n_items, min_users, k: as ``EvaluationProtocol`` has them.

    Raises:
        ValueError: a user is trained on what is not strictly before their labels, or as ``EvaluationProtocol`` does.
    """
    if isinstance(split, TimeSplit):
        return time_split(train.history, asked.history, asked.labels, split.start, n_items, min_users, k)
    rows = {name: row for row, name in enumerate(asked.ids)}
    starts = np.append(request_times(split, asked.labels), np.iinfo(np.int64).max)
    limit = starts[[rows.get(name, -1) for name in train.ids]]
    late = np.flatnonzero(train.history.times >= limit[train.history.users])
    if len(late):
        row, time = train.history.users[late[0]], train.history.times[late[0]]
        raise ValueError(
            f"train: user {train.ids[row].decode()!r} has an event at {time}, expected all of them strictly before "
            f"the first label at {limit[row]}"
        )
    return EvaluationProtocol(train.history, asked.history, asked.labels, n_items, min_users, k)


class LeaveLastOut(NamedTuple):
    """Histories, which are also what a model may be trained on, and one label a user at most."""

    history: Timelines
    labels: Timelines

    def protocol(self, n_items: int, k: int, min_users: int = 0) -> EvaluationProtocol:
        """The protocol with ``history`` as ``train`` too."""
        return EvaluationProtocol(self.history, self.history, self.labels, n_items, min_users, k)


def leave_last_out(timelines: Timelines) -> LeaveLastOut:
    """Each user's last event is the label, and the events strictly before it the history.

    Of several events at a user's last moment the last one in the timeline is the label, and the others are in
    neither part: they are not strictly before it. A user whose events all have one time keeps them as history
    and has no label. Other users' histories may be younger than a label, so what becomes popular later can help:
    numbers are not comparable with those of ``time_split``. A spec's ``split: {kind: leave_last_out}`` differs in one
    thing: there all events at the last moment are labels.
    """
    ends = timelines.offsets[1:]
    some = timelines.lengths > 0
    last_time = np.full(timelines.n_users, np.iinfo(np.int64).max)
    first_time = last_time.copy()
    last_time[some] = timelines.times[ends[some] - 1]
    first_time[some] = timelines.times[timelines.offsets[:-1][some]]
    split = some & (first_time < last_time)
    history = timelines.before(np.where(split, last_time, np.iinfo(np.int64).max))
    labels = timelines.since(np.where(split, last_time, np.iinfo(np.int64).max)).latest(1)
    return LeaveLastOut(history, labels)


def given_pairs(
    train_users: Int64,
    train_items: Int64,
    test_users: Int64,
    test_items: Int64,
    n_users: int,
    n_items: int,
    k: int = 20,
) -> EvaluationProtocol:
    """A given train and test file of (user, item) pairs: every item is a candidate, every test user evaluated.

    Evaluate with the task ``"new"``, which takes the user's training items out of the candidates, as LightGCN's
    and RecZoo's tables do. Training events have the time 0 and test events 1.

    Args:
        train_users, train_items: [pairs] rows of users and items.
        test_users, test_items: [pairs] the same of the test.
        n_users: users, of whom some may be in one file only.
        n_items: size of the catalogue.
        k: places of a list that count.

    Raises:
        ValueError: a row is out of range, or a pair is in both files (leakage).
    """
    train, test = (
        _events(name, users, items, time, n_users, n_items)
        for name, users, items, time in (("train", train_users, train_items, 0), ("test", test_users, test_items, 1))
    )
    check_disjoint(ItemSets.bought(train, n_items), test.users, test.items)
    return EvaluationProtocol(train, train, test, n_items, min_users=0, k=k, newcomers=True)


def check_disjoint(train: ItemSets, users: Int64, items: Int32) -> None:
    """Raise ValueError where one of the test's pairs (users [n], items [n]) is in ``train`` too: leakage."""
    both = np.flatnonzero(train.contains(users, items))
    if len(both):
        raise ValueError(
            f"test: {len(both):,} of {len(users):,} pairs are in train too, the first is user {users[both[0]]} with "
            f"item {items[both[0]]}; expected none"
        )


def _events(name: str, users: Int64, items: Int64, time: int, n_users: int, n_items: int) -> Timelines:
    for what, rows, n in (("user", users, n_users), ("item", items, n_items)):
        if not len(rows):
            raise ValueError(f"{name}: found no pair of user and item, expected at least one")
        if not 0 <= rows.min() <= rows.max() < n:
            raise ValueError(f"{name}: found {what} rows {rows.min()} to {rows.max()}, expected 0 to {n - 1}")
    times, ones = np.full(len(users), time, dtype=np.int64), np.ones(len(users), dtype=np.float32)
    return Timelines.from_events(np.asarray(users, np.int64), items.astype(np.int32), times, ones, n_users)
