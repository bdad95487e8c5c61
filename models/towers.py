"""The two towers: query (who, with what history, when) and candidate (which item), one vector each.

A score is the dot product of the two vectors. Covington et al. 2016 (doi:10.1145/2959100.2959190) and
Yi et al. 2019 (doi:10.1145/3298689.3346996) describe the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.models.feature_encoder import FeatureEncoder
from twotower.models.tables import Table

Features = Mapping[str, tf.Tensor]

# Half-lives, in days, that the recency-weighted history means start from; training moves them.
HALF_LIVES = (7.0, 45.0, 365.0)


class IdEmbedding(tf.keras.layers.Layer):
    """Embedding of ids; rare and unknown ones share one row, which id dropout trains.

    Without dropout that row would never be trained, and unknown ids would get an arbitrary vector.
    """

    def __init__(self, counts: npt.NDArray[np.int64], *, min_count: int, dim: int, dropout: float, **kwargs: object):
        super().__init__(**kwargs)
        known = np.flatnonzero(counts >= min_count)
        rows = np.full(len(counts) + 1, len(known), dtype=np.int32)
        rows[known] = np.arange(len(known))
        self._unknown = len(known)
        self._rows = tf.Variable(rows, trainable=False, name="rows")
        self._dropout = dropout
        self.embedding = tf.keras.layers.Embedding(
            len(known) + 1, dim, embeddings_initializer=tf.keras.initializers.RandomNormal(stddev=0.05)
        )

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Vocabulary rows [...] (the vocabulary's size = unknown) to [..., dim]."""
        rows = tf.gather(self._rows, ids)
        if training and self._dropout > 0:
            dropped = tf.random.uniform(tf.shape(rows)) < self._dropout
            rows = tf.where(dropped, self._unknown, rows)
        return self.embedding(rows)


class CandidateTower(tf.keras.Model):
    """Item features to [b, dim]: id, every item feature, through a perceptron; the id adds to it directly."""

    def __init__(
        self,
        encodings: Sequence[Encoding],
        item_ids: IdEmbedding,
        log_prior: npt.NDArray[np.float32],
        *,
        units: Sequence[int],
        dim: int,
        affinity_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self._affinity_weight = affinity_weight
        self._log_prior = tf.Variable(log_prior, trainable=False, name="log_prior")
        self.item_ids = item_ids
        self.encoder = FeatureEncoder(encodings)
        self.hidden = [tf.keras.layers.Dense(width, activation="relu") for width in units]
        self.project = tf.keras.layers.Dense(dim - 1)

    def call(self, features: Features, training: bool = False) -> tf.Tensor:
        """``item_id`` [b] and the item encodings to [b, dim] float32."""
        ids = self.item_ids(features["item_id"], training=training)
        hidden = tf.concat([ids, self.encoder(features)], axis=1) if self.encoder.encodings else ids
        for layer in self.hidden:
            hidden = layer(hidden)
        prior = tf.gather(self._log_prior, features["item_id"])[:, tf.newaxis]
        # Affinities learnt from few purchases are overstated: what is served is shrunk towards the prior.
        weight = 1.0 if training else self._affinity_weight
        return tf.concat([weight * (self.project(hidden) + ids), prior], axis=1)


class HistoryItems(tf.keras.layers.Layer):
    """Vectors of the history's items: an id embedding of its own, and the items' labels (category, brand, ...).

    The labels let a history speak for items that were never bought together.
    """

    def __init__(self, item_ids: IdEmbedding, labels: Sequence[Encoding], tables: Table, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._item_ids = item_ids
        self._encoder = FeatureEncoder(labels)
        # One more row stands for padding and unknown items.
        self._tables = {
            label.name: tf.Variable(np.append(tables[label.name], label.size - 1), trainable=False) for label in labels
        }

    def call(self, items: tf.Tensor) -> tf.Tensor:
        """Catalogue rows [b, h] (the catalogue's size = padding or unknown) to [b, h, width]."""
        ids = self._item_ids(items)
        if not self._tables:
            return ids
        labels = self._encoder({name: tf.gather(table, items) for name, table in self._tables.items()})
        return tf.concat([ids, labels], axis=2)


class HistoryEncoder(tf.keras.layers.Layer):
    """Means of the history's item embeddings, one for each learned half-life of the events' age."""

    def __init__(self, n_items: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self._n_items = n_items

    def build(self, input_shape: object) -> None:
        """Create the half-lives."""
        del input_shape
        self._log_half_lives = self.add_weight(
            name="log_half_lives",
            shape=(len(HALF_LIVES),),
            initializer=tf.keras.initializers.Constant(np.log(HALF_LIVES).tolist()),
        )

    def call(self, vectors: tf.Tensor, items: tf.Tensor, ages: tf.Tensor) -> tf.Tensor:
        """Item vectors [b, h, dim], rows [b, h] (``n_items`` = padding or unknown), ages [b, h] in days."""
        decay = tf.exp(-np.log(2.0) * ages[:, tf.newaxis, :] / tf.exp(self._log_half_lives)[:, tf.newaxis])
        weights = decay * tf.cast(items < self._n_items, tf.float32)[:, tf.newaxis, :]
        means = tf.math.divide_no_nan(weights @ vectors, tf.reduce_sum(weights, axis=2, keepdims=True))
        return tf.reshape(means, [tf.shape(items)[0], len(HALF_LIVES) * vectors.shape[-1]])


class QueryTower(tf.keras.Model):
    """User features, history and context to [b, dim]."""

    def __init__(
        self,
        encodings: Sequence[Encoding],
        user_ids: IdEmbedding,
        history_items: HistoryItems,
        *,
        n_items: int,
        units: Sequence[int],
        dim: int,
    ) -> None:
        super().__init__()
        self.user_ids = user_ids
        self.history_items = history_items
        self.history = HistoryEncoder(n_items)
        self.encoder = FeatureEncoder(encodings)
        self.hidden = [tf.keras.layers.Dense(width, activation="relu") for width in units]
        self.project = tf.keras.layers.Dense(
            dim - 1, kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01)
        )

    def call(self, features: Features, training: bool = False) -> tf.Tensor:
        """``user_id`` [b], ``history_item_id`` [b, h], ``history_age`` [b, h] in days, user and context encodings."""
        items = features["history_item_id"]
        history = self.history(self.history_items(items), items, features["history_age"])
        events = tf.cast(tf.math.count_nonzero(items < self.history._n_items, axis=1), tf.float32)
        parts = [
            self.user_ids(features["user_id"], training=training),
            history,
            tf.math.log1p(events)[:, tf.newaxis],
        ]
        hidden = tf.concat([*parts, self.encoder(features)] if self.encoder.encodings else parts, axis=1)
        for layer in self.hidden:
            hidden = layer(hidden)
        vector = self.project(hidden)
        return tf.concat([vector, tf.ones_like(vector[:, :1])], axis=1)
