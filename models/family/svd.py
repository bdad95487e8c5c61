"""Truncated SVD of who bought what beyond user and item biases.

The biases are those of Koren (2008, doi:10.1145/1401890.1401944), taken over the whole matrix with its zeros, as
in PureSVD (Cremonesi et al. 2010, doi:10.1145/1864708.1864721). The singular vectors V are orthonormal, so that a
history's least-squares query is its residual times V: a trained user's by it is the decomposition's own.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import tensorflow as tf
from scipy.sparse.linalg import LinearOperator

from twotower.features.model_choices import Svd
from twotower.models.contract import Features, Towers, TrainingData
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.low_rank import right_singular, split
from twotower.models.family.table_towers import Float32, ItemTable, TableTower, distinct, with_one
from twotower.models.metrics import Float64


class ResidualQuery(TableTower):
    """A history's row of who bought what, less ``expected`` and the user's bias, times ``factors``; and 1.

    Without a history nothing is known of the user: zeros, and the items' biases decide.

    Args:
        factors: [n_items, dim].
        expected: [n_items] the mean and the item's bias.
        regularization: of the user's bias.
    """

    def __init__(self, factors: Float32, expected: Float32, regularization: float) -> None:
        super().__init__(factors)
        self._offset = tf.Variable(expected @ factors, trainable=False, dtype=tf.float32)
        self._slope = tf.Variable(factors.sum(axis=0), trainable=False, dtype=tf.float32)
        self._expected = float(expected.sum())
        self._weight = regularization + len(factors)

    def __call__(self, features: Features) -> tf.Tensor:
        """Query features to [b, dim + 1]."""
        items = distinct(features["history_item_id"], self._table.size)
        count = tf.cast(items.row_lengths(), tf.float32)[:, tf.newaxis]
        bias = (count - self._expected) / self._weight
        query = self._table.sums(items) - self._offset - bias * self._slope
        return with_one(tf.where(count > 0, query, 0.0))


def fit(data: TrainingData) -> Towers:
    """Fit the biases one after the other, items first, and decompose what they leave."""
    choice = data.spec.retrieval
    assert isinstance(choice, Svd)
    matrix = interaction_matrix(data.train.history, len(data.catalogue))
    n_users, n_items = matrix.shape
    mean = matrix.nnz / (n_users * n_items)
    item_bias = (matrix.getnnz(axis=0) - n_users * mean) / (choice.regularization + n_users)
    expected = mean + item_bias
    user_bias = (matrix.getnnz(axis=1) - expected.sum()) / (choice.regularization + n_items)
    values, right = right_singular(residual(matrix, user_bias, expected), choice.factors, data.spec.seed)
    query = ResidualQuery(right / split(values), expected.astype(np.float32), choice.regularization)
    return Towers(query, ItemTable(right * split(values), item_bias.astype(np.float32)))


def residual(matrix: scipy.sparse.csr_matrix, rows: Float64, columns: Float64) -> LinearOperator:
    """``matrix`` [users, items] less ``rows`` [users] and ``columns`` [items], without making it dense."""
    rows, columns = rows[:, np.newaxis], columns[:, np.newaxis]

    def matmat(right: Float64) -> Float64:
        return np.asarray(matrix @ right - rows * right.sum(axis=0) - columns.T @ right)

    def rmatmat(left: Float64) -> Float64:
        return np.asarray(matrix.T @ left - rows.T @ left - columns * left.sum(axis=0))

    return LinearOperator(
        matrix.shape,
        matvec=lambda right: matmat(right.reshape(-1, 1)),
        rmatvec=lambda left: rmatmat(left.reshape(-1, 1)),
        matmat=matmat,
        rmatmat=rmatmat,
        dtype=np.float64,
    )
