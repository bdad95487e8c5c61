"""Sets of catalogue rows, one a query, in the graph."""

from __future__ import annotations

import tensorflow as tf


def contains(sets: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Whether each of [b, n] rows is in its list of [b, e]; [b, n] bool. Comparing all pairs would take b * n * e."""
    # One more entry, that no row equals, keeps the lists from being empty.
    ordered = tf.sort(tf.pad(sets, [[0, 0], [0, 1]], constant_values=-1), axis=1)
    values = tf.pad(values, [[0, 0], [0, 1]])
    places = tf.minimum(tf.searchsorted(ordered, values), tf.shape(ordered)[1] - 1)
    return (tf.gather(ordered, places, batch_dims=1) == values)[:, :-1]
