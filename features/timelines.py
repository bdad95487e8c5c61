"""Timelines: every user's events in time order, as flat arrays (compressed sparse rows).

A history is always a slice of a timeline that ends strictly before a moment. That rule lives here and
nowhere else: training, ranking, evaluation and the baselines all cut their histories with ``before``
or ``cuts``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Timelines:
    """Events of users, grouped by user and sorted by time within each.

    Attributes:
        offsets: [users + 1] where each user's events start; the last entry is the number of events.
        items: [events] rows of the item vocabulary; a value >= the catalogue's size is out of vocabulary.
        times: [events] unix seconds, never decreasing within a user. Events of one basket share a time.
        quantities: [events] how many, or the event's weight.
    """

    offsets: Int64
    items: Int32
    times: Int64
    quantities: Float32

    def __post_init__(self) -> None:
        if not len(self.items) == len(self.times) == len(self.quantities) == self.offsets[-1]:
            raise ValueError(
                f"timelines need one item, time and quantity an event: offsets end at {self.offsets[-1]}, found "
                f"{len(self.items)} items, {len(self.times)} times, {len(self.quantities)} quantities"
            )
        late = np.flatnonzero(np.diff(self.times) < 0) + 1
        if len(np.setdiff1d(late, self.offsets)):
            raise ValueError("timelines need each user's events in time order")

    @classmethod
    def from_events(cls, users: Int64, items: Int32, times: Int64, quantities: Float32, n_users: int) -> Timelines:
        """Group unordered events ([events] each) by their user row; the order of ties is kept.

        Raises:
            ValueError: a user row is outside [0, n_users).
        """
        if len(users) and not 0 <= users.min() <= users.max() < n_users:
            raise ValueError(f"user rows: found {users.min()} to {users.max()}, expected 0 to {n_users - 1}")
        order = np.lexsort((times, users))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))]).astype(np.int64)
        return cls(offsets, items[order], times[order], quantities[order])

    @property
    def n_users(self) -> int:
        """Number of users, those without events included."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64:
        """[users] events of each user."""
        return np.diff(self.offsets)

    @property
    def users(self) -> Int64:
        """[events] the user row of each event."""
        return np.repeat(np.arange(self.n_users), self.lengths)

    def cuts(self) -> Int64:
        """[events] end of each event's own history: the first event of the user at the same time.

        ``items[offsets[u]:cuts()[e]]`` is what was known strictly before event ``e`` of user ``u``.
        """
        starts_group = np.ones(len(self.items), dtype=bool)
        starts_group[1:] = np.diff(self.times) != 0
        starts_group[self.offsets[:-1][self.lengths > 0]] = True
        group = np.cumsum(starts_group) - 1
        own: Int64 = np.flatnonzero(starts_group)[group]
        return own

    def first_purchases(self) -> npt.NDArray[np.bool_]:
        """[events] true where the user has no earlier event with the item (the same basket's do not count)."""
        cuts = self.cuts()
        order = np.lexsort((np.arange(len(self.items)), self.items, self.users))
        users, items = self.users[order], self.items[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
        # Every event of a run belongs to the run's first event; it is new if it shares that one's basket.
        first_of_run = order[np.flatnonzero(first)][np.cumsum(first) - 1]
        is_first = np.zeros(len(order), dtype=bool)
        is_first[order] = cuts[order] == cuts[first_of_run]
        return is_first

    def before(self, time: int | Int64) -> Timelines:
        """The events strictly before ``time``: one moment, or [users] one for each."""
        return self._where(self.times < np.broadcast_to(time, self.n_users)[self.users])

    def since(self, time: int | Int64) -> Timelines:
        """The events at or after ``time``: one moment, or [users] one for each."""
        return self._where(self.times >= np.broadcast_to(time, self.n_users)[self.users])

    def latest(self, n: int) -> Timelines:
        """At most the last ``n`` events of each user."""
        position = np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.lengths)
        return self._where(position >= np.repeat(self.lengths - n, self.lengths))

    def select(self, users: Int64 | Sequence[int]) -> Timelines:
        """The timelines of the given user rows, in that order."""
        rows = np.asarray(users, dtype=np.int64)
        events = self.events_of(rows)
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])]).astype(np.int64)
        return Timelines(offsets, self.items[events], self.times[events], self.quantities[events])

    def events_of(self, rows: Int64) -> Int64:
        """[n] places of the events of the given user rows, user by user."""
        lengths = self.lengths[rows]
        starts = np.cumsum(lengths) - lengths
        places = np.repeat(self.offsets[rows] - starts, lengths) + np.arange(lengths.sum())
        return np.asarray(places, dtype=np.int64)

    def padded(self, length: int, fill: int) -> tuple[Int32, Int64]:
        """Items and times as [users, length] arrays, oldest first, padded at the end with ``fill`` and 0."""
        kept = self.latest(length)
        columns = np.arange(len(kept.items)) - np.repeat(kept.offsets[:-1], kept.lengths)
        items = np.full((self.n_users, length), fill, dtype=np.int32)
        times = np.zeros((self.n_users, length), dtype=np.int64)
        items[kept.users, columns] = kept.items
        times[kept.users, columns] = kept.times
        return items, times

    def _where(self, keep: npt.NDArray[np.bool_]) -> Timelines:
        counts = np.bincount(self.users[keep], minlength=self.n_users)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Timelines(offsets, self.items[keep], self.times[keep], self.quantities[keep])
