"""Query features of users at chosen moments, gathered in the graph from their timelines.

Retrieval training, ranker training and evaluation all build their histories here, cut by
``Timelines.cuts`` or ``Queries.cuts``: strictly before the moment.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.preprocessing import time_part
from twotower.features.spec import Spec, TimeFeature
from twotower.models.tables import Users

# Seconds.
DAY = 86_400

Int64 = npt.NDArray[np.int64]


class Queries:
    """The users' timelines and features as constants, and what each would ask at a moment."""

    def __init__(self, spec: Spec, users: Users, n_items: int) -> None:
        self._spec = spec
        self._n_items = n_items
        self._users = users
        history = users.history
        # One padding event keeps gathers of users without events inside the array.
        self._items = tf.constant(np.append(history.items, n_items).astype(np.int32))
        self._times = tf.constant(np.append(history.times, 0))
        self._starts = tf.constant(history.offsets[:-1])
        self._rows = tf.constant(users.rows)
        self._features = {name: tf.constant(table) for name, table in users.features.items()}
        self._context = {name: tf.constant(values) for name, values in users.context.items()}
        self._unknown_context = {
            encoding.name: encoding.size - 1 for encoding in users.encodings if encoding.name in users.context
        }

    def cuts(self, users: Int64, times: Int64) -> Int64:
        """[b] end of each user's history strictly before each time, as a row of the timelines."""
        history = self._users.history
        starts, ends = history.offsets[users], history.offsets[users + 1]
        return np.array(
            [
                start + np.searchsorted(history.times[start:end], time)
                for start, end, time in zip(starts, ends, times, strict=True)
            ],
            dtype=np.int64,
        )

    def history_ends(self, users: Int64) -> Int64:
        """[b] end of each user's whole history, as a row of the timelines."""
        ends: Int64 = self._users.history.offsets[users + 1]
        return ends

    def features(
        self, users: tf.Tensor, cuts: tf.Tensor, times: tf.Tensor, length: int, events: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Query features of users [b] at times [b], with the last ``length`` events before ``cuts`` [b].

        Returns ``user_id`` [b], ``history_item_id`` [b, length] and ``history_age`` [b, length] (most recent first;
        padding is the catalogue's size and 0), and the user and context encodings. The context's columns are those
        of ``events`` [b], or unknown.
        """
        positions = cuts[:, tf.newaxis] - 1 - tf.range(length, dtype=tf.int64)
        inside = positions >= tf.gather(self._starts, users)[:, tf.newaxis]
        positions = tf.where(inside, positions, tf.size(self._items, tf.int64) - 1)
        ages = tf.cast(times[:, tf.newaxis] - tf.gather(self._times, positions), tf.float32) / DAY
        if events is None:
            context = {
                name: tf.fill(tf.shape(users), tf.cast(v, tf.int64)) for name, v in self._unknown_context.items()
            }
        else:
            context = {name: tf.gather(values, events) for name, values in self._context.items()}
        return {
            "user_id": tf.gather(self._rows, users),
            "history_item_id": tf.gather(self._items, positions),
            "history_age": tf.where(inside, ages, 0.0),
            **{name: tf.gather(table, users) for name, table in self._features.items()},
            **context,
            **context_times(self._spec, times),
        }


def context_times(spec: Spec, times: tf.Tensor) -> dict[str, tf.Tensor]:
    """The context's time features of unix seconds [b], by encoding name."""
    return {
        f"context_{name}": time_part(times, feature.part)
        for name, feature in spec.context.items()
        if isinstance(feature, TimeFeature)
    }
