"""The moments of a split: when training ends, and when each user of the test asks."""

from __future__ import annotations

import numpy as np

from twotower.features.spec import Split, TimeSplit
from twotower.features.timelines import Int64, Timelines


def training_end(split: Split, train: Timelines) -> int:
    """First second that a shop trained on ``train`` knows nothing of: where the test begins, or after its last event.

    Raises:
        ValueError: the split has no moment of its own and there is no event.
    """
    if isinstance(split, TimeSplit):
        return split.start
    if not len(train.times):
        raise ValueError("train: found no event, expected at least one")
    return int(train.times.max()) + 1


def request_times(split: Split, labels: Timelines) -> Int64:
    """[asked users] when each asks: where the test begins, or at the first of their own labels.

    Raises:
        ValueError: the split has no moment of its own and a user has no label.
    """
    if isinstance(split, TimeSplit):
        return np.full(labels.n_users, split.start, dtype=np.int64)
    idle = np.flatnonzero(labels.lengths == 0)
    if len(idle):
        raise ValueError(f"labels: user row {idle[0]} has none, expected at least one of each asked user")
    first: Int64 = labels.times[labels.offsets[:-1]]
    return first
