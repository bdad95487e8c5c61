"""Implicit ALS (Hu, Koren and Volinsky 2008, doi:10.1109/ICDM.2008.22) by the ``implicit`` package, with fold-in.

A query is one more half-step of ALS: the vector that explains the history best, given the items' factors. A
trained user gets by it what training would have given next, and a new user is no different. Without a history
it is the average user's.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from twotower.features.model_choices import Als
from twotower.models.contract import Features, Towers, TrainingData
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.table_towers import Float32, ItemTable, TableTower, distinct, or_else, with_one

PARALLEL_QUERIES = 4


class FoldIn(TableTower):
    """Solves (Y'Y + confidence * Y_h'Y_h + regularization * I) x = (1 + confidence) * sum of Y_h for each history h.

    Args:
        items: Y, [n_items, dim].
        empty: [dim] the query without an item that somebody bought.
        confidence: what a purchase weighs beyond 1.
        regularization: of the users' vectors.
    """

    def __init__(self, items: Float32, empty: Float32, confidence: float, regularization: float) -> None:
        super().__init__(items)
        gram = items.T @ items + regularization * np.eye(items.shape[1])
        self._gram = tf.Variable(gram, trainable=False, dtype=tf.float32)
        self._empty = tf.Variable(empty, trainable=False, dtype=tf.float32)
        self._confidence = confidence

    def __call__(self, features: Features) -> tf.Tensor:
        """Query features to [b, dim + 1]."""
        histories = distinct(features["history_item_id"], self._table.size)
        gram = self._gram.read_value()

        def solve(rows: tf.Tensor) -> tf.Tensor:
            bought = self._table(rows)
            left = gram + self._confidence * tf.matmul(bought, bought, transpose_a=True)
            right = (1.0 + self._confidence) * tf.reduce_sum(bought, axis=0)
            return tf.linalg.cholesky_solve(tf.linalg.cholesky(left), right[:, tf.newaxis])[:, 0]

        # A history at a time: the vectors of a batch's would all have to be padded to the longest.
        signature = tf.TensorSpec([self._table.dim], tf.float32)
        solved = tf.map_fn(solve, histories, fn_output_signature=signature, parallel_iterations=PARALLEL_QUERIES)
        return with_one(or_else(solved, self._empty))


def fit(data: TrainingData) -> Towers:
    """Factorise who bought what, each purchase with weight 1 + ``confidence``."""
    choice = data.spec.retrieval
    assert isinstance(choice, Als)
    n_items = len(data.catalogue)
    model = AlternatingLeastSquares(
        factors=choice.factors,
        regularization=choice.regularization,
        iterations=choice.iterations,
        use_cg=False,
        random_state=data.spec.seed,
    )
    matrix = interaction_matrix(data.train.history, n_items)
    # implicit wants 1 + alpha * r, and its own threads.
    with threadpool_limits(1, "blas"):
        model.fit(matrix * np.float32(1 + choice.confidence), show_progress=False)
    items = np.asarray(model.item_factors)
    average = np.asarray(model.user_factors)[matrix.getnnz(axis=1) > 0].mean(axis=0)
    query = FoldIn(items, average, choice.confidence, choice.regularization)
    return Towers(query, ItemTable(items, np.zeros(n_items, np.float32)))
