"""What a history says: its items' vectors [b, h, dim] to one vector [b, width], whatever its length.

All read rows of items, most recent first, where the catalogue's size is padding or an unknown item, and ages in days.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from twotower.features.model_choices import HistoryEncoding

# Half-lives, in days, that the recency-weighted history means start from; training moves them.
HALF_LIVES = (7.0, 45.0, 365.0)
# Self-attention: width of its states, heads, and blocks.
WIDTH, HEADS, BLOCKS = 64, 2, 2
# Score of what may not be attended to.
NEVER = -1e9


class HistoryMeans(tf.keras.layers.Layer):
    """Means of the item vectors, one for each learned half-life of the events' age."""

    def __init__(self, n_items: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._n_items = n_items

    def build(self, input_shape: object) -> None:
        """Create the half-lives."""
        del input_shape
        self._log_half_lives = log_half_lives(self)

    def call(self, vectors: tf.Tensor, items: tf.Tensor, ages: tf.Tensor) -> tf.Tensor:
        """Item vectors [b, h, dim], rows and ages [b, h] to [b, half-lives * dim]."""
        weights = decay(self._log_half_lives, ages) * tf.cast(items < self._n_items, tf.float32)[:, tf.newaxis, :]
        means = tf.math.divide_no_nan(weights @ vectors, tf.reduce_sum(weights, axis=2, keepdims=True))
        return tf.reshape(means, [tf.shape(items)[0], len(HALF_LIVES) * vectors.shape[-1]])


class HistoryAttention(tf.keras.layers.Layer):
    """Attention pooling: a head for each half-life, whose weights depend on what the item is, too.

    The heads' scores of items start at 0, so that training starts from the means.
    """

    def __init__(self, n_items: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._n_items = n_items
        self._hidden = tf.keras.layers.Dense(WIDTH, activation="tanh")
        self._score = tf.keras.layers.Dense(len(HALF_LIVES), kernel_initializer="zeros")

    def build(self, input_shape: object) -> None:
        """Create the half-lives."""
        del input_shape
        self._log_half_lives = log_half_lives(self)

    def call(self, vectors: tf.Tensor, items: tf.Tensor, ages: tf.Tensor) -> tf.Tensor:
        """Item vectors [b, h, dim], rows and ages [b, h] to [b, half-lives * dim]."""
        known = (items < self._n_items)[:, tf.newaxis, :]
        scores = tf.transpose(self._score(self._hidden(vectors)), [0, 2, 1])
        scores += tf.math.log(decay(self._log_half_lives, ages) + 1e-9)
        weights = tf.nn.softmax(tf.where(known, scores, NEVER)) * tf.cast(known, tf.float32)
        return tf.reshape(weights @ vectors, [tf.shape(items)[0], len(HALF_LIVES) * vectors.shape[-1]])


class HistorySelfAttention(tf.keras.layers.Layer):
    """Causal self-attention blocks; the newest event's state stands for the history.

    SASRec (Kang and McAuley 2018, arXiv:1808.09781), with the order and the events' ages at once: an event attends
    to itself and to older ones, and the logarithm of the days between them lowers the weight by a learned factor.
    """

    def __init__(self, n_items: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._n_items = n_items
        self._input = tf.keras.layers.Dense(WIDTH)
        self._blocks = [CausalBlock() for _ in range(BLOCKS)]

    def call(self, vectors: tf.Tensor, items: tf.Tensor, ages: tf.Tensor) -> tf.Tensor:
        """Item vectors [b, h, dim], rows and ages [b, h] to [b, WIDTH]; an empty history is zero."""
        length = tf.shape(items)[1]
        known = items < self._n_items
        place = tf.range(length)
        older = place[:, tf.newaxis] <= place
        # An unknown event may attend to itself, or its weights would sum to nothing.
        allowed = (older & known[:, tf.newaxis, :]) | tf.eye(length, dtype=tf.bool)
        gaps = tf.math.log1p(tf.nn.relu(ages[:, tf.newaxis, :] - ages[:, :, tf.newaxis]))
        states = self._input(vectors)
        for block in self._blocks:
            states = block(states, allowed, gaps)
        # The newest known event is the first one; the sum also answers for a history of length 0.
        first = known & (tf.cumsum(tf.cast(known, tf.int32), axis=1) == 1)
        return tf.einsum("bhd,bh->bd", states, tf.cast(first, tf.float32))


class CausalBlock(tf.keras.layers.Layer):
    """Attention and a perceptron, each added to what goes in and normalised before (pre-norm)."""

    def __init__(self) -> None:
        super().__init__()
        self._norms = [tf.keras.layers.LayerNormalization() for _ in range(2)]
        self._inputs = tf.keras.layers.Dense(3 * WIDTH)
        self._output = tf.keras.layers.Dense(WIDTH)
        self._hidden = tf.keras.layers.Dense(WIDTH, activation="relu")
        self._project = tf.keras.layers.Dense(WIDTH)

    def build(self, input_shape: object) -> None:
        """Create the weight of time."""
        del input_shape
        self._slope = self.add_weight(name="slope", shape=(HEADS, 1, 1), initializer="ones")

    def call(self, states: tf.Tensor, allowed: tf.Tensor, gaps: tf.Tensor) -> tf.Tensor:
        """States [b, h, WIDTH], which event [b, h, h] may attend to which, and their distance, to new states."""
        shape = tf.shape(states)
        each = tf.reshape(self._inputs(self._norms[0](states)), [shape[0], shape[1], 3, HEADS, WIDTH // HEADS])
        query, key, value = tf.unstack(tf.transpose(each, [2, 0, 3, 1, 4]), num=3)
        scores = tf.matmul(query, key, transpose_b=True) / np.sqrt(WIDTH // HEADS)
        scores -= self._slope * gaps[:, tf.newaxis]
        weights = tf.nn.softmax(tf.where(allowed[:, tf.newaxis], scores, NEVER))
        attended = tf.reshape(tf.transpose(weights @ value, [0, 2, 1, 3]), [shape[0], shape[1], WIDTH])
        states += self._output(attended)
        return states + self._project(self._hidden(self._norms[1](states)))


HISTORY_ENCODERS: Mapping[HistoryEncoding, type[tf.keras.layers.Layer]] = {
    "mean": HistoryMeans,
    "attention": HistoryAttention,
    "self_attention": HistorySelfAttention,
}


def log_half_lives(layer: tf.keras.layers.Layer) -> tf.Variable:
    """A weight of the layer: the logarithms of ``HALF_LIVES``."""
    return layer.add_weight(
        name="log_half_lives",
        shape=(len(HALF_LIVES),),
        initializer=tf.keras.initializers.Constant(np.log(HALF_LIVES).tolist()),
    )


def decay(log_half_lives: tf.Tensor, ages: tf.Tensor) -> tf.Tensor:
    """0.5^(age / half-life) of ages [b, h] in days: [b, half-lives, h]."""
    return tf.exp(-np.log(2.0) * ages[:, tf.newaxis, :] / tf.exp(log_half_lives)[:, tf.newaxis])
