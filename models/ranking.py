"""The multi-task ranker's network: DCN-v2 crosses and a deep part over a candidate's features, one head a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from twotower.features.encoding import Encoding
from twotower.features.model_choices import MultiTask
from twotower.models.feature_encoder import FeatureEncoder
from twotower.models.plain_model import PlainModel
from twotower.models.quantized import gather
from twotower.models.ranking_features import item_table
from twotower.models.tables import Catalogue

Features = Mapping[str, tf.Tensor]

# Standardised features are cut at this many deviations.
FARTHEST = 5.0
# Width of the low-rank part of a cross.
CROSS_RANK = 64


class RankingNetwork(tf.keras.Model):
    """Scores candidates for queries, one score a task; the catalogue's features are looked up inside by row.

    Attributes:
        item_tables: what ``catalogue_tables`` gives, as variables that may be assigned tables of other items.
    """

    def __init__(
        self,
        query: Sequence[Encoding],
        catalogue: Catalogue,
        width: int,
        *,
        units: Sequence[int],
        crosses: int,
    ) -> None:
        super().__init__()
        self.item_tables = {name: item_table(values) for name, values in catalogue_tables(catalogue).items()}
        self._item_encoder = FeatureEncoder(catalogue.encodings)
        self._query_encoder = FeatureEncoder(query)
        self._mean = tf.Variable(tf.zeros([width]), trainable=False, name="mean")
        self._deviation = tf.Variable(tf.ones([width]), trainable=False, name="deviation")
        self._crosses = [tfrs.layers.dcn.Cross(projection_dim=CROSS_RANK) for _ in range(crosses)]
        self._hidden = [tf.keras.layers.Dense(units_, activation="relu") for units_ in units]
        self._bought = tf.keras.layers.Dense(1, name="bought")
        self._quantity = tf.keras.layers.Dense(1, name="quantity")

    def standardise_by(self, numbers: npt.NDArray[np.floating[Any]]) -> None:
        """Take the means and deviations of features [n, width]."""
        self._mean.assign(numbers.mean(axis=0, dtype=np.float64).astype(np.float32))
        self._deviation.assign(np.maximum(numbers.std(axis=0, dtype=np.float64), 1e-3).astype(np.float32))

    def call(self, features: Features, candidates: tf.Tensor, numbers: tf.Tensor) -> dict[str, tf.Tensor]:
        """Score candidates.

        Args:
            features: user and context encodings, [b] or [b, size].
            candidates: [b, n] catalogue rows; the catalogue's size = padding.
            numbers: [b, n, width] their ``RankingFeatures``.

        Returns:
            ``bought`` [b, n] logits, and ``quantity`` [b, n] log1p of the quantity if bought.
        """
        shape = tf.shape(candidates)
        crossed = first = tf.clip_by_value((numbers - self._mean) / self._deviation, -FARTHEST, FARTHEST)
        for cross in self._crosses:
            crossed = cross(first, crossed)
        parts = [crossed]
        if self.item_tables:
            flat = tf.reshape(candidates, [-1])
            encoded = self._item_encoder({name: gather(table, flat) for name, table in self.item_tables.items()})
            parts.append(tf.reshape(encoded, [shape[0], shape[1], encoded.shape[-1]]))
        if self._query_encoder.encodings:
            asked = self._query_encoder(features)
            parts.append(tf.broadcast_to(asked[:, tf.newaxis, :], [shape[0], shape[1], asked.shape[-1]]))
        hidden = tf.concat(parts, axis=2)
        for layer in self._hidden:
            hidden = layer(hidden)
        return {"bought": self._bought(hidden)[:, :, 0], "quantity": self._quantity(hidden)[:, :, 0]}


class Ranking(PlainModel):
    """Trains a ``RankingNetwork`` on two tasks: will it be bought within the horizon, and how many."""

    def __init__(self, network: RankingNetwork, choice: MultiTask) -> None:
        super().__init__()
        self.network = network
        self._quantity_weight = choice.quantity_weight
        self._listwise = choice.loss == "listwise"
        self._bought = tfrs.tasks.Ranking(
            loss=tf.keras.losses.BinaryCrossentropy(from_logits=True),
            metrics=[tf.keras.metrics.AUC(name="auc", from_logits=True)],
        )
        self._quantity = tfrs.tasks.Ranking(loss=tf.keras.losses.MeanSquaredError())

    def compute_loss(self, inputs: Features, training: bool = False) -> tf.Tensor:
        """The weighted loss; ``inputs`` are those of ``ranking_inputs.training_dataset``."""
        scores = self.network(inputs, inputs["candidates"], inputs["numbers"])
        weights = tf.reshape(inputs["weight"], [-1, 1])
        bought = tf.reshape(inputs["bought"], [-1, 1])
        quantity = tf.reshape(tf.math.log1p(inputs["quantity"]), [-1, 1])
        loss = self._bought(bought, tf.reshape(scores["bought"], [-1, 1]), sample_weight=weights)
        if self._listwise:
            loss = listwise_loss(scores["bought"], inputs["bought"], inputs["weight"])
        return loss + self._quantity_weight * self._quantity(
            quantity, tf.reshape(scores["quantity"], [-1, 1]), sample_weight=weights * bought
        )


def listwise_loss(logits: tf.Tensor, bought: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """Softmax cross-entropy of each purchase against its list (Cao et al. 2007); all [b, n], to the purchases' mean.

    A candidate with weight w stands for w of its kind, which adds log w to its logit in the list's sum; 0 = padding.
    """
    total = tf.reduce_logsumexp(tf.where(weight > 0, logits + tf.math.log(tf.maximum(weight, 1e-9)), -1e9), axis=1)
    positives = weight * bought
    return tf.math.divide_no_nan(tf.reduce_sum(positives * (total[:, tf.newaxis] - logits)), tf.reduce_sum(positives))


def catalogue_tables(catalogue: Catalogue) -> dict[str, npt.NDArray[np.generic]]:
    """The items' features by encoding, [n_items + 1, ...]; the last row is an unknown item's, and padding's."""
    return {e.name: _with_unknown(catalogue.features[e.name], e) for e in catalogue.encodings}


def _with_unknown(table: npt.NDArray[np.generic], encoding: Encoding) -> npt.NDArray[np.generic]:
    unknown = {"index": encoding.size - 1, "indices": -1, "number": 0, "vector": 0}[encoding.form]
    row = np.full((1, *table.shape[1:]), unknown, dtype=table.dtype)
    return np.concatenate([table, row])
