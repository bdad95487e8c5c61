"""Non-negative matrix factorisation (Lee and Seung 2001) by scikit-learn, with fold-in.

A query is the non-negative vector that explains the history best, given the items' parts. Without a history it
is the average user's.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from sklearn.decomposition import NMF

from twotower.features.model_choices import Nmf
from twotower.models.contract import Features, Towers, TrainingData
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.table_towers import Float32, ItemTable, TableTower, distinct, or_else, with_one

# Multiplicative updates of a query: they come within a hundredth of the optimum's score.
UPDATES = 30


class NonNegativeQuery(TableTower):
    """Minimises the squares of x - w H over w >= 0 for each history x, by Lee and Seung's multiplicative updates.

    Args:
        items: H', [n_items, dim], none negative.
        empty: [dim] the query without an item that somebody bought.
    """

    def __init__(self, items: Float32, empty: Float32) -> None:
        super().__init__(items)
        self._gram = tf.Variable(items.T @ items, trainable=False, dtype=tf.float32)
        self._empty = tf.Variable(empty, trainable=False, dtype=tf.float32)

    def __call__(self, features: Features) -> tf.Tensor:
        """Query features to [b, dim + 1]."""
        items = distinct(features["history_item_id"], self._table.size)
        wanted = self._table.sums(items)
        query = tf.ones_like(wanted)
        for _ in range(UPDATES):
            query *= tf.math.divide_no_nan(wanted, tf.matmul(query, self._gram))
        return with_one(or_else(query, self._empty))


def fit(data: TrainingData) -> Towers:
    """Factorise by coordinate descent, which is the solver that gains from a sparse matrix."""
    choice = data.spec.retrieval
    assert isinstance(choice, Nmf)
    matrix = interaction_matrix(data.train.history, len(data.catalogue))
    rank = min(choice.factors, *matrix.shape)
    # No tolerance: ``iterations`` says how many there are.
    model = NMF(rank, init="nndsvda", solver="cd", max_iter=choice.iterations, tol=0, random_state=data.spec.seed)
    users = model.fit_transform(matrix)
    items = np.asarray(model.components_.T, np.float32)
    query = NonNegativeQuery(items, users[matrix.getnnz(axis=1) > 0].mean(axis=0))
    return Towers(query, ItemTable(items, np.zeros(len(items), np.float32)))
