"""What the rules know of the items: their labels and numbers as the shop gave them, and which items have which."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Objects = npt.NDArray[np.object_]
Float32 = npt.NDArray[np.float32]


class LabelAttribute(tf.Module):
    """One label an item.

    Args:
        labels: [n] of the items; an empty one is missing.
    """

    def __init__(self, labels: Objects) -> None:
        super().__init__()
        names, of_item = np.unique(labels.astype(np.bytes_), return_inverse=True)
        # A missing label is the last one, a label that no item has one more.
        order = np.argsort(names == b"", kind="stable")
        names, of_item = names[order], np.argsort(order)[of_item.ravel()]
        self.n_labels = int((names != b"").sum())
        keys = tf.constant(names[: self.n_labels].astype(object), tf.string)
        numbers = tf.range(self.n_labels, dtype=tf.int64)
        lookup = tf.lookup.KeyValueTensorInitializer(keys, numbers)
        self._table = tf.lookup.StaticHashTable(lookup, self.n_labels + 1)
        # One more row for padding, which has no label.
        self._of_item = tf.Variable(np.append(of_item, self.n_labels).astype(np.int32), trainable=False)
        self._order = tf.Variable(np.argsort(of_item, kind="stable").astype(np.int32), trainable=False)
        sizes = np.bincount(of_item, minlength=self.n_labels + 2)
        self._ends = tf.Variable(np.cumsum(sizes).astype(np.int32), trainable=False)

    def numbers(self, labels: tf.Tensor) -> tf.Tensor:
        """Labels of any shape to their numbers int32; an empty one is -1, and one that no item has ``n_labels`` + 1."""
        found = tf.cast(self._table.lookup(labels), tf.int32)
        return tf.where(tf.strings.length(labels) > 0, found, -1)

    def of(self, rows: tf.Tensor) -> tf.Tensor:
        """The labels' numbers of rows [...]; ``n_labels`` = missing."""
        return tf.gather(self._of_item.read_value(), rows)

    def ranges(self, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Where the items of each label [...] start and end in ``rows``."""
        ends = tf.concat([[0], self._ends.read_value()], axis=0)
        return tf.gather(ends, tf.maximum(numbers, 0)), tf.gather(ends, numbers + 1)

    def rows(self, places: tf.Tensor) -> tf.Tensor:
        """The items' rows at places [...] of the order by label."""
        return tf.gather(self._order.read_value(), places)


class NumberAttribute(tf.Module):
    """One number an item.

    Args:
        values: [n] float32; NaN is missing.
    """

    def __init__(self, values: Float32) -> None:
        super().__init__()
        order = np.argsort(values, kind="stable")[: int(np.isfinite(values).sum())].astype(np.int32)
        # One more row for padding, which has no number.
        self._of_item = tf.Variable(np.append(values, np.nan).astype(np.float32), trainable=False)
        self._order = tf.Variable(order, trainable=False)
        self._sorted = tf.Variable(values[order], trainable=False)

    def of(self, rows: tf.Tensor) -> tf.Tensor:
        """The numbers of rows [...]; NaN = missing."""
        return tf.gather(self._of_item.read_value(), rows)

    def range(self, least: tf.Tensor, most: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Where the items with numbers from ``least`` to ``most`` [], both included, start and end in ``rows``."""
        values = self._sorted.read_value()
        start = tf.searchsorted(values, [least], side="left")[0]
        return start, tf.maximum(start, tf.searchsorted(values, [most], side="right")[0])

    def rows(self, places: tf.Tensor) -> tf.Tensor:
        """The items' rows at places [...] of the order by number."""
        return tf.gather(self._order.read_value(), places)
