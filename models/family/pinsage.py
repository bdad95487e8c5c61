"""PinSage (Ying et al. 2018, doi:10.1145/3219819.3219890): item features convolved over item neighbourhoods.

Inductive: an item that nobody bought has no neighbours, and a vector from its features alone. Training replaces ids
and neighbourhoods by nothing at random, so that such vectors are learnt too. A query is the mean of its history's
items; PinSage has no users.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.model_choices import PinSage
from twotower.features.timelines import Timelines
from twotower.models.contract import Towers, TrainingData
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.item_neighbours import Neighbours, walk
from twotower.models.family.pair_training import adam, n_steps, train_on_pairs
from twotower.models.family.table_towers import Float32, HistorySum, ItemTable
from twotower.models.feature_encoder import FeatureEncoder
from twotower.models.id_embeddings import IdEmbedding
from twotower.models.tables import Catalogue

Int64 = npt.NDArray[np.int64]

# An event's partner is among this many events after it.
WINDOW = 5
# Share of items whose neighbourhood a training step leaves out.
NEIGHBOUR_DROPOUT = 0.1
# Purchases spread evenly over the catalogue, as a share of all, in the items' prior.
PRIOR_SMOOTHING = 0.1
BLOCK = 8192


def fit(data: TrainingData) -> Towers:
    """Train on pairs of items that a user bought soon after each other, and export every item's vector."""
    spec, catalogue = data.spec, data.catalogue
    choice = spec.retrieval
    assert isinstance(choice, PinSage)
    purchases = interaction_matrix(data.train.history, len(catalogue))
    counts = purchases.getnnz(axis=0)
    first, second = item_pairs(data.train.history, len(catalogue), spec.seed)
    tf.keras.utils.set_random_seed(spec.seed)
    model = PinSageModel(choice, catalogue, counts, walk(purchases, choice.neighbours, spec.seed))
    model.embed(tf.constant([0], tf.int64))  # creates the variables
    optimizer = adam(choice.learning_rate, choice.epochs * n_steps(len(first), choice.batch_size))

    def step(queries: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.loss(queries, items)
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    train_on_pairs(
        step, first, second, batch_size=choice.batch_size, epochs=choice.epochs, seed=spec.seed, folder=data.folder
    )
    vectors = model.embed_all()
    share = (counts + PRIOR_SMOOTHING * counts.sum() / len(counts)) / counts.sum()
    # The in-batch softmax learns how much likelier an item is than its share: the prior adds the share back.
    bias = choice.prior_weight * choice.temperature * np.log(share * len(counts))
    average = counts @ vectors / counts.sum()
    return Towers(HistorySum(vectors, power=1.0, empty=average), ItemTable(vectors, bias.astype(np.float32)))


def item_pairs(history: Timelines, n_items: int, seed: int) -> tuple[Int64, Int64]:
    """For each event one of the user's next ``WINDOW`` events: two different items, in both directions.

    Where nobody bought two items there is no pair to learn from: then each bought item is its own.
    """
    random = np.random.default_rng(seed)
    events = np.arange(len(history.items))
    partner = events + random.integers(1, WINDOW + 1, len(events))
    inside = partner < np.repeat(history.offsets[1:], history.lengths)
    first, second = history.items[inside].astype(np.int64), history.items[partner[inside]].astype(np.int64)
    known = (first != second) & (first < n_items) & (second < n_items)
    if not known.any():
        own = np.unique(history.items[history.items < n_items]).astype(np.int64)
        return own, own
    return np.append(first[known], second[known]), np.append(second[known], first[known])


class PinSageModel(tf.Module):
    """The convolutions, and the catalogue that they run over.

    Args:
        choice: the settings.
        catalogue: the items' features.
        counts: [n_items] buyers of each.
        neighbours: of each item.
    """

    def __init__(self, choice: PinSage, catalogue: Catalogue, counts: Int64, neighbours: Neighbours) -> None:
        super().__init__()
        self._choice, self._n_items = choice, len(catalogue)
        self._features = {name: tf.constant(table) for name, table in catalogue.features.items()}
        self._neighbours, self._weights = tf.constant(neighbours.items), tf.constant(neighbours.weights)
        self._ids = IdEmbedding(
            counts, min_count=choice.min_id_count, dim=choice.factors, dropout=choice.id_dropout, name="item_ids"
        )
        self._encoder = FeatureEncoder(catalogue.encodings)
        self._input = tf.keras.layers.Dense(choice.factors, activation="relu")
        self._layers = [Convolution(choice.factors) for _ in range(choice.layers)]
        self._output = tf.keras.layers.Dense(choice.factors)

    def loss(self, queries: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Mean softmax loss of item pairs [b] over the batch's second items."""
        wanted, places = tf.unique(tf.concat([queries, items], axis=0))
        vectors = tf.gather(self.embed(wanted, training=True), places)
        query, item = tf.split(vectors, 2)
        scores = tf.matmul(query, item, transpose_b=True) / self._choice.temperature
        # The same item again, or the query's own, is no negative.
        own = tf.eye(tf.size(items), dtype=tf.bool)
        repeated = (items[:, tf.newaxis] == items) | (queries[:, tf.newaxis] == items)
        scores = tf.where(repeated & ~own, scores.dtype.min, scores)
        return tf.reduce_mean(tf.reduce_logsumexp(scores, axis=1) - tf.linalg.diag_part(scores))

    def embed(self, rows: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Unit vectors [b, factors] of distinct items [b], from their sampled neighbourhoods."""
        return self._finish(self._convolve(rows, len(self._layers), training))

    def embed_all(self) -> Float32:
        """Every item's unit vector, layer by layer: each layer of each item is computed once."""
        rows = np.arange(self._n_items)
        blocks = [tf.constant(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK)]
        vectors = tf.concat([self._start(block, training=False) for block in blocks], axis=0)
        for layer in self._layers:
            messages = layer.messages(vectors)
            vectors = tf.concat(
                [
                    layer(
                        tf.gather(vectors, block),
                        tf.gather(messages, tf.gather(self._neighbours, block)),
                        tf.gather(self._weights, block),
                    )
                    for block in blocks
                ],
                axis=0,
            )
        return np.asarray(self._finish(vectors))

    def _convolve(self, rows: tf.Tensor, depth: int, training: bool) -> tf.Tensor:
        """Vectors of distinct items after ``depth`` layers; each item below is computed once a step."""
        if depth == 0:
            return self._start(rows, training)
        around = tf.cast(tf.gather(self._neighbours, rows), rows.dtype)
        below, places = tf.unique(tf.concat([rows, tf.reshape(around, [-1])], axis=0))
        vectors = self._convolve(below, depth - 1, training)
        layer = self._layers[depth - 1]
        own, near = places[: tf.size(rows)], tf.reshape(places[tf.size(rows) :], tf.shape(around))
        kept = tf.ones([tf.size(rows), 1])
        if training:
            kept = tf.cast(tf.random.uniform(tf.shape(kept)) >= NEIGHBOUR_DROPOUT, tf.float32)
        return layer(
            tf.gather(vectors, own), tf.gather(layer.messages(vectors), near), tf.gather(self._weights, rows) * kept
        )

    def _start(self, rows: tf.Tensor, training: bool) -> tf.Tensor:
        parts = [self._ids(rows, training=training)]
        if self._encoder.encodings:
            parts.append(self._encoder({name: tf.gather(table, rows) for name, table in self._features.items()}))
        return self._input(tf.concat(parts, axis=1))

    def _finish(self, vectors: tf.Tensor) -> tf.Tensor:
        return tf.math.l2_normalize(self._output(vectors), axis=1)


class Convolution(tf.keras.layers.Layer):
    """One layer: the item beside the weighted mean of its neighbours' messages, through a dense layer, normalised."""

    def __init__(self, width: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.messages = tf.keras.layers.Dense(width, activation="relu")
        self._combine = tf.keras.layers.Dense(width, activation="relu")

    def call(self, own: tf.Tensor, messages: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        """Own vectors [b, dim], neighbours' messages [b, n, width] and weights [b, n] to [b, width]."""
        mean = tf.einsum("bnw,bn->bw", messages, weights)
        return tf.math.l2_normalize(self._combine(tf.concat([own, mean], axis=1)), axis=1)
