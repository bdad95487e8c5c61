"""The two towers: query (who, with what history, when) and candidate (which item), one vector each.

A score is the dot product of the two vectors: ``dim - 1`` trained dimensions, those of the graph of who bought what
if there are any, and the item's prior, by which the query's last entry, 1, is multiplied. Covington et al. 2016
(doi:10.1145/2959100.2959190) and Yi et al. 2019 (doi:10.1145/3298689.3346996) describe the architecture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.features.model_choices import HistoryEncoding, Similarity
from twotower.models.feature_encoder import FeatureEncoder
from twotower.models.graph_factors import START, GraphFactors
from twotower.models.history_encoders import HISTORY_ENCODERS
from twotower.models.id_embeddings import IdEmbedding
from twotower.models.tables import Table

Features = Mapping[str, tf.Tensor]


class CandidateTower(tf.keras.Model):
    """Item features to a vector: id, every item feature, through a perceptron; the id adds to it directly.

    ``affinity_weight`` scales the trained dimensions when served, not in training.
    """

    def __init__(
        self,
        encodings: Sequence[Encoding],
        item_ids: IdEmbedding,
        log_prior: npt.NDArray[np.float32],
        *,
        units: Sequence[int],
        dim: int,
        affinity_weight: float = 1.0,
        similarity: Similarity = "dot",
        graph: GraphFactors | None = None,
        widths: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self._affinity_weight = affinity_weight
        self._similarity = similarity
        self._log_prior = tf.Variable(log_prior, trainable=False, name="log_prior")
        self._graph = graph
        self.item_ids = item_ids
        self.encoder = FeatureEncoder(encodings, widths)
        self.hidden = [tf.keras.layers.Dense(width, activation="relu") for width in units]
        self.project = tf.keras.layers.Dense(dim - 1)

    def set_prior(self, log_prior: npt.NDArray[np.float32]) -> None:
        """Replace the items' prior, [items + 1]."""
        self._log_prior.assign(log_prior)

    def call(self, features: Features, training: bool = False) -> tf.Tensor:
        """``item_id`` [b] and the item encodings to [b, dim + graph's] float32."""
        rows = features["item_id"]
        ids = self.item_ids(rows, training=training)
        graph = [] if self._graph is None else [self._graph.items(rows)]
        encoded = [self.encoder(features)] if self.encoder.encodings else []
        hidden = tf.concat([ids, *encoded], axis=1)
        for layer in self.hidden:
            hidden = layer(hidden)
        affinity = self.project(hidden) + ids
        if self._similarity == "cosine":
            affinity = tf.math.l2_normalize(affinity, axis=1)
        # Affinities learnt from few purchases are overstated: what is served is shrunk towards the prior.
        weight = 1.0 if training else self._affinity_weight
        prior = tf.gather(self._log_prior, rows)[:, tf.newaxis]
        return tf.concat([weight * affinity, *graph, prior], axis=1)


class HistoryItems(tf.keras.layers.Layer):
    """Vectors of the history's items: an id embedding of its own, and the items' labels (category, brand, ...).

    The labels let a history speak for items that were never bought together.
    """

    def __init__(
        self,
        item_ids: IdEmbedding,
        labels: Sequence[Encoding],
        tables: Table,
        widths: Mapping[str, int] = MappingProxyType({}),
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        self._item_ids = item_ids
        self._encoder = FeatureEncoder(labels, widths)
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


class QueryTower(tf.keras.Model):
    """User features, history and context to a vector.

    Args:
        temperature: what trained affinities are divided by; ``"learned"`` starts at 1, and at 0.1 for cosines.
    """

    def __init__(
        self,
        encodings: Sequence[Encoding],
        user_ids: IdEmbedding,
        history_items: HistoryItems,
        *,
        n_items: int,
        units: Sequence[int],
        dim: int,
        history_encoder: HistoryEncoding = "mean",
        similarity: Similarity = "dot",
        temperature: float | Literal["learned"] = 1.0,
        graph: GraphFactors | None = None,
        widths: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self._n_items = n_items
        self._similarity = similarity
        self._graph = graph
        self.user_ids = user_ids
        self.history_items = history_items
        self.history = HISTORY_ENCODERS[history_encoder](n_items)
        self.encoder = FeatureEncoder(encodings, widths)
        self.hidden = [tf.keras.layers.Dense(width, activation="relu") for width in units]
        self.project = tf.keras.layers.Dense(
            dim - 1, kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01)
        )
        learned = temperature == "learned"
        start = (1.0 if similarity == "dot" else 0.1) if temperature == "learned" else temperature
        self._log_temperature = tf.Variable(np.log(start), trainable=learned, dtype=tf.float32, name="log_temperature")
        if graph is not None:
            self._log_graph_weight = tf.Variable(np.log(START), dtype=tf.float32, name="log_graph_weight")

    def call(self, features: Features, training: bool = False) -> tf.Tensor:
        """``user_id`` [b], ``history_item_id`` [b, h], ``history_age`` [b, h] in days, user and context encodings."""
        items = features["history_item_id"]
        history = self.history(self.history_items(items), items, features["history_age"])
        events = tf.cast(tf.math.count_nonzero(items < self._n_items, axis=1), tf.float32)
        parts = [
            self.user_ids(features["user_id"], training=training),
            history,
            tf.math.log1p(events)[:, tf.newaxis],
        ]
        hidden = tf.concat([*parts, self.encoder(features)] if self.encoder.encodings else parts, axis=1)
        for layer in self.hidden:
            hidden = layer(hidden)
        affinity = self.project(hidden)
        if self._similarity == "cosine":
            affinity = tf.math.l2_normalize(affinity, axis=1)
        vectors = [affinity * tf.exp(-self._log_temperature)]
        if self._graph is not None:
            vectors.append(tf.exp(self._log_graph_weight) * self._graph.history(items))
        return tf.concat([*vectors, tf.ones_like(affinity[:, :1])], axis=1)
