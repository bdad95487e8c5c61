"""LightGCN (He et al. 2020, doi:10.1145/3397271.3401063): item embeddings smoothed over the graph of who bought what.

Users have no embedding of their own to start from, only what their items pass on. A user's vector is then a
weighted sum over the history, so that new users are served as trained ones are, and the graph has half the
parameters. The loss is a softmax over cosines with sampled items instead of the paper's pairwise one: it converges
in a fraction of the epochs (Wu et al. 2022, arXiv:2201.02327). SimpleX's cosine-contrastive loss (Mao et al. 2021,
doi:10.1145/3459637.3482297) is the other choice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse
import tensorflow as tf

from twotower.features.model_choices import LightGcn
from twotower.models.contract import Towers, TrainingData
from twotower.models.family.interactions import interaction_matrix, normalised
from twotower.models.family.pair_training import adam, n_steps, train_on_pairs
from twotower.models.family.table_towers import HistorySum, ItemTable

# Spread of the embeddings before training.
STDDEV = 0.1


def fit(data: TrainingData) -> Towers:
    """Train the item embeddings through the graph, and export what they become in it."""
    choice = data.spec.retrieval
    assert isinstance(choice, LightGcn)
    purchases = interaction_matrix(data.train.history, len(data.catalogue))
    pairs = purchases.tocoo()
    tf.keras.utils.set_random_seed(data.spec.seed)
    model = SmoothedItems(purchases, choice)
    optimizer = adam(choice.learning_rate, choice.epochs * n_steps(pairs.nnz, choice.batch_size))

    def step(users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.loss(users, items)
        gradient = tf.convert_to_tensor(tape.gradient(loss, model.embeddings))
        optimizer.apply_gradients([(gradient, model.embeddings)])
        return loss

    train_on_pairs(
        step,
        pairs.row.astype(np.int64),
        pairs.col.astype(np.int64),
        batch_size=choice.batch_size,
        epochs=choice.epochs,
        seed=data.spec.seed,
        folder=data.folder,
    )
    found = model.smoothed()
    degree = np.maximum(purchases.getnnz(axis=0), 1)[:, np.newaxis]
    # A user's row of the normalised graph: 1 / sqrt(own degree * item degree) for each item.
    query = HistorySum(found.passed_on.numpy() / np.sqrt(degree), power=0.5, empty=found.users.numpy().mean(axis=0))
    items = tf.math.l2_normalize(found.items, axis=1).numpy()
    return Towers(query, ItemTable(items, np.zeros(len(items), np.float32)))


class Smoothed(NamedTuple):
    """Means over the layers: ``users`` [users, dim] and ``items`` [n_items, dim].

    Users sum what items passed on, ``passed_on`` [n_items, dim].
    """

    users: tf.Tensor
    items: tf.Tensor
    passed_on: tf.Tensor


class SmoothedItems(tf.Module):
    """The item embeddings and the graph.

    Args:
        purchases: [users, items] who bought what.
        choice: the settings.
    """

    def __init__(self, purchases: scipy.sparse.csr_matrix, choice: LightGcn) -> None:
        super().__init__()
        self._choice = choice
        n_items = purchases.shape[1]
        self.embeddings = tf.Variable(tf.random.normal([n_items, choice.factors], stddev=STDDEV))
        graph = normalised(purchases)
        self._to_users, self._to_items = _sparse(graph), _sparse(graph.T)

    def smoothed(self) -> Smoothed:
        """Propagate the embeddings.

        Items hold something in the even layers and users in the odd ones, because users start from nothing: half of
        the paper's products are zero and left out.
        """
        last = self._choice.layers
        layer = tf.convert_to_tensor(self.embeddings)
        items = passed_on = layer
        for number in range(2, last + 1, 2):
            layer = self._product(self._to_items, self._to_users, self._product(self._to_users, self._to_items, layer))
            items += layer
            passed_on += layer if number < last else 0.0
        users = self._product(self._to_users, self._to_items, passed_on)
        return Smoothed(*(total / (last + 1) for total in (users, items, passed_on)))

    def loss(self, users: tf.Tensor, bought: tf.Tensor) -> tf.Tensor:
        """Mean loss of pairs [b] against uniform items, and the size of the embeddings before the graph."""
        choice, n_items = self._choice, self.embeddings.shape[0]
        sampled = tf.random.uniform([choice.sampled_items], maxval=n_items, dtype=tf.int64)
        found = self.smoothed()
        queries = tf.math.l2_normalize(tf.gather(found.users, users), axis=1)
        items = tf.math.l2_normalize(found.items, axis=1)
        positive = tf.reduce_sum(queries * tf.gather(items, bought), axis=1, keepdims=True)
        negative = tf.matmul(queries, tf.gather(items, sampled), transpose_b=True)
        # An item is no negative of itself.
        negative = tf.where(bought[:, tf.newaxis] == sampled, -np.inf, negative)
        if choice.loss == "cosine_contrastive":
            near = tf.reduce_mean(tf.nn.relu(negative - choice.margin), axis=1)
            losses = 1.0 - positive[:, 0] + choice.negative_weight * near
        else:
            # The sample stands for the whole catalogue.
            logits = tf.concat(
                [positive, negative + choice.temperature * np.log(n_items / choice.sampled_items)], axis=1
            )
            losses = tf.reduce_logsumexp(logits / choice.temperature, axis=1) - positive[:, 0] / choice.temperature
        rows = tf.concat([bought, sampled], axis=0)
        size = tf.reduce_mean(tf.reduce_sum(tf.square(tf.gather(self.embeddings, rows)), axis=1))
        return tf.reduce_mean(losses) + choice.regularization * size

    @staticmethod
    def _product(matrix: tf.SparseTensor, transposed: tf.SparseTensor, vectors: tf.Tensor) -> tf.Tensor:
        """``matrix`` times dense vectors; the gradient goes by the transposed matrix that is there already."""

        @tf.custom_gradient
        def multiply(dense: tf.Tensor) -> tuple[tf.Tensor, object]:
            return tf.sparse.sparse_dense_matmul(matrix, dense), lambda upstream: tf.sparse.sparse_dense_matmul(
                transposed, upstream
            )

        return multiply(vectors)


def _sparse(matrix: scipy.sparse.spmatrix) -> tf.SparseTensor:
    entries = matrix.tocsr().tocoo()  # row by row, as TensorFlow wants them
    return tf.SparseTensor(np.stack([entries.row, entries.col], axis=1), entries.data, entries.shape)
