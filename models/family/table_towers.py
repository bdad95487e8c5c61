"""Towers that are tables: an item's vector, and a query's from its user or its history."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.section import Precision
from twotower.models.quantized import stored

Float32 = npt.NDArray[np.float32]
Features = Mapping[str, tf.Tensor]


class TableTower(tf.Module):
    """A tower with a table of vectors."""

    def __init__(self, vectors: Float32) -> None:
        super().__init__()
        self._table = stored(np.asarray(vectors, np.float32), "float32")

    def store_tables(self, precision: Precision) -> None:
        """See ``HoldsTables``."""
        self._table = stored(self._table.values(), precision)


class ItemTable(TableTower):
    """``item_id`` [b] to the item's vector and bias, [b, dim + 1]; an unknown item: zeros, the lowest bias."""

    def __init__(self, vectors: Float32, bias: Float32) -> None:
        table = np.concatenate([vectors, bias[:, np.newaxis]], axis=1)
        unknown = np.append(np.zeros(vectors.shape[1]), bias.min(initial=0))[np.newaxis]
        super().__init__(np.concatenate([table, unknown]))

    def __call__(self, features: Features) -> tf.Tensor:
        """Item features to vectors."""
        return self._table(features["item_id"])


class UserTable(TableTower):
    """``user_id`` [b] to the user's vector and 1, [b, dim + 1]; an unknown user has the ``unknown`` vector [dim]."""

    def __init__(self, vectors: Float32, unknown: Float32) -> None:
        super().__init__(np.concatenate([vectors, unknown[np.newaxis]]))

    def __call__(self, features: Features) -> tf.Tensor:
        """Query features to vectors."""
        return with_one(self._table(features["user_id"]))


class HistorySum(TableTower):
    """The sum of a vector for each distinct item of the history, over the number of items to a power, and 1.

    Args:
        vectors: [n_items, dim].
        power: 0 sums, 1 is the mean, 0.5 between.
        empty: [dim] the query where the sum is nothing, as without a history; zeros unless given.
    """

    def __init__(self, vectors: Float32, power: float, empty: Float32 | None = None) -> None:
        super().__init__(vectors)
        self._power = power
        self._empty = tf.Variable(np.zeros(vectors.shape[1]) if empty is None else empty, False, dtype=tf.float32)

    def __call__(self, features: Features) -> tf.Tensor:
        """Query features to vectors."""
        items = distinct(features["history_item_id"], self._table.size)
        count = tf.cast(items.row_lengths(), tf.float32)[:, tf.newaxis]
        mean = tf.math.divide_no_nan(self._table.sums(items), count**self._power)
        return with_one(or_else(mean, self._empty))


def distinct(items: tf.Tensor, n_items: int) -> tf.RaggedTensor:
    """Each known item of histories [b, h] once, ascending: [b, (distinct items)]."""
    rows = tf.sort(items, axis=1)
    repeated = tf.pad(rows[:, 1:] == rows[:, :-1], [[0, 0], [1, 0]])
    return tf.ragged.boolean_mask(rows, (rows < n_items) & ~repeated)


def or_else(vectors: tf.Tensor, empty: tf.Tensor) -> tf.Tensor:
    """Vectors [b, dim], with ``empty`` [dim] in place of zeros: queries that know nothing of their user."""
    return tf.where(tf.reduce_any(vectors != 0, axis=1, keepdims=True), vectors, empty)


def with_one(vectors: tf.Tensor) -> tf.Tensor:
    """[b, dim] to [b, dim + 1]: the entry that an item's bias is multiplied by."""
    return tf.concat([vectors, tf.ones_like(vectors[:, :1])], axis=1)


def in_vocabulary(vectors: Float32, rows: npt.NDArray[np.int64], n_users: int, unknown: Float32) -> Float32:
    """[n_users, dim] vectors by user vocabulary, of the training users' vectors and their rows in it."""
    table = np.tile(unknown, (n_users, 1)).astype(np.float32)
    known = rows < n_users
    table[rows[known]] = vectors[known]
    return table
