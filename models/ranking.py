"""The ranker: a TFRS multi-task model over retrieved candidates, with repeat features from the request's history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from twotower.features.encoding import Encoding
from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.feature_encoder import FeatureEncoder
from twotower.models.queries import DAY
from twotower.models.repeat_features import group_features, item_features
from twotower.models.tables import Catalogue

Features = Mapping[str, tf.Tensor]
Float32 = npt.NDArray[np.float32]

# Windows, in days, of the items' recent buyers.
RECENT_DAYS = (30, 90)


def item_statistics(history: Timelines, at: int, n_items: int) -> Float32:
    """What was known of each item just before the time ``at``: [n_items + 1, 2 + len(RECENT_DAYS)].

    Log buyers, share of buyers who bought again, and log buyers of the last days by ``RECENT_DAYS``.
    """
    known = history.before(at)
    keep = known.items < n_items

    def buyers(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        pairs = np.unique(known.users[mask] * (n_items + 1) + known.items[mask])
        return np.bincount(pairs % (n_items + 1), minlength=n_items + 1).astype(np.float64)

    everyone = buyers(keep)
    again = buyers(keep & ~known.first_purchases())
    recent = [np.log1p(buyers(keep & (known.times >= at - days * DAY))) for days in RECENT_DAYS]
    # Two pseudo-buyers at the average rate keep rarely bought items from looking certain.
    rate = again.sum() / max(1.0, everyone.sum())
    columns = [np.log1p(everyone), (again + 2 * rate) / (everyone + 2), *recent]
    return np.asarray(np.stack(columns, axis=1), np.float32)


class RankingNetwork(tf.keras.Model):
    """Scores candidates for queries, one score a task; the catalogue's features are looked up inside by row."""

    def __init__(
        self, query: Sequence[Encoding], catalogue: Catalogue, statistics: Float32, *, units: Sequence[int]
    ) -> None:
        super().__init__()
        self._n_items = len(catalogue)
        # One more row stands for padding and unknown items.
        self._catalogue = {
            encoding.name: tf.Variable(_with_unknown(catalogue.features[encoding.name], encoding), trainable=False)
            for encoding in catalogue.encodings
        }
        self._groups = tuple(catalogue.labels)
        self.statistics = tf.Variable(statistics, trainable=False, name="statistics")
        self._item_encoder = FeatureEncoder(catalogue.encodings)
        self._query_encoder = FeatureEncoder(query)
        self._hidden = [tf.keras.layers.Dense(width, activation="relu") for width in units]
        self._bought = tf.keras.layers.Dense(1, name="bought")
        self._quantity = tf.keras.layers.Dense(1, name="quantity")

    def call(self, features: Features, candidates: tf.Tensor, statistics: tf.Tensor) -> dict[str, tf.Tensor]:
        """Score candidates.

        Args:
            features: ``history_item_id`` [b, h], ``history_age`` [b, h] in days, user and context encodings.
            candidates: [b, n] catalogue rows; the catalogue's size = padding.
            statistics: [b, n, s] the candidates' rows of ``item_statistics``.

        Returns:
            ``bought`` [b, n] logits, and ``quantity`` [b, n] log1p of the quantity if bought.
        """
        items, ages = features["history_item_id"], features["history_age"]
        valid = items < self._n_items
        parts = [item_features(items, ages, candidates, self._n_items), statistics]
        for encoding in self._groups:
            table = self._catalogue[encoding.name]
            groups, wanted = tf.gather(table, items), tf.gather(table, candidates)
            # What is unknown of an item is no group to share.
            parts.append(group_features(groups, valid & (groups < encoding.size - 1), ages, wanted, encoding.size))
        shape = tf.shape(candidates)
        flat = tf.reshape(candidates, [-1])
        if self._catalogue:
            encoded = self._item_encoder({name: tf.gather(table, flat) for name, table in self._catalogue.items()})
            parts.append(tf.reshape(encoded, [shape[0], shape[1], encoded.shape[-1]]))
        query = [tf.math.log1p(tf.cast(tf.math.count_nonzero(valid, axis=1), tf.float32))[:, tf.newaxis]]
        if self._query_encoder.encodings:
            query.append(self._query_encoder(features))
        asked = tf.concat(query, axis=1)
        parts.append(tf.broadcast_to(asked[:, tf.newaxis, :], [shape[0], shape[1], asked.shape[-1]]))
        hidden = tf.concat(parts, axis=2)
        for layer in self._hidden:
            hidden = layer(hidden)
        return {"bought": self._bought(hidden)[:, :, 0], "quantity": self._quantity(hidden)[:, :, 0]}


class Ranking(tfrs.models.Model):
    """Trains a ``RankingNetwork`` on two tasks: will it be bought within the horizon, and how many."""

    def __init__(self, network: RankingNetwork, spec: Spec) -> None:
        super().__init__()
        self.network = network
        self._quantity_weight = spec.ranking.quantity_weight
        self._bought = tfrs.tasks.Ranking(
            loss=tf.keras.losses.BinaryCrossentropy(from_logits=True),
            metrics=[tf.keras.metrics.AUC(name="auc", from_logits=True)],
        )
        self._quantity = tfrs.tasks.Ranking(loss=tf.keras.losses.MeanSquaredError())

    def compute_loss(self, inputs: Features, training: bool = False) -> tf.Tensor:
        """The weighted loss; ``inputs`` are those of ``ranking_lists.training_dataset``."""
        scores = self.network(inputs, inputs["candidates"], inputs["statistics"], training=training)
        weights = tf.reshape(inputs["weight"], [-1, 1])
        bought = tf.reshape(inputs["bought"], [-1, 1])
        quantity = tf.reshape(tf.math.log1p(inputs["quantity"]), [-1, 1])
        loss = self._bought(bought, tf.reshape(scores["bought"], [-1, 1]), sample_weight=weights)
        return loss + self._quantity_weight * self._quantity(
            quantity, tf.reshape(scores["quantity"], [-1, 1]), sample_weight=weights * bought
        )


def _with_unknown(table: npt.NDArray[np.generic], encoding: Encoding) -> npt.NDArray[np.generic]:
    unknown = {"index": encoding.size - 1, "indices": -1, "number": 0, "vector": 0}[encoding.form]
    row = np.full((1, *table.shape[1:]), unknown, dtype=table.dtype)
    return np.concatenate([table, row])
