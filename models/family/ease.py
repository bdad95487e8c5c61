"""EASE (Steck 2019, doi:10.1145/3308558.3313710): the item-item weights that best predict each purchase from the rest.

The weights have a closed form. At rank ``factors`` they are two towers: of all matrices of that rank, the one
whose predictions for the training users (under EASE's own regularisation) are nearest to the full weights'.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse

from twotower.features.model_choices import Ease
from twotower.models.contract import Towers, TrainingData
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.low_rank import right_singular, split
from twotower.models.family.table_towers import HistorySum, ItemTable

# Columns of the item-item matrix that are held sparse at a time.
BLOCK = 1024


def fit(data: TrainingData) -> Towers:
    """Weights between the ``max_items`` items with the most buyers; the others come last, by their buyers.

    A weighted item's score is near 1 where the user would buy it and near 0 where not. The others' biases are -1
    and less.
    """
    choice = data.spec.retrieval
    assert isinstance(choice, Ease)
    matrix = interaction_matrix(data.train.history, len(data.catalogue))
    buyers = matrix.getnnz(axis=0)
    most = np.argsort(-buyers, kind="stable")[: choice.max_items]
    kept = np.sort(most[buyers[most] > 0])
    root, weights = item_weights(matrix.tocsc()[:, kept], choice.regularization)
    values, right = right_singular(root @ weights, choice.factors, data.spec.seed)
    queries = np.zeros((len(buyers), len(values)), np.float32)
    candidates = np.zeros_like(queries)
    queries[kept], candidates[kept] = weights @ (right / split(values)), right * split(values)
    bias = np.asarray(buyers / buyers.max() - 2, np.float32)
    bias[kept] = 0
    # Without a history: what the average user would be given.
    average = (buyers @ queries) / len(data.train)
    return Towers(HistorySum(queries, 0, average), ItemTable(candidates, bias))


def item_weights(
    matrix: scipy.sparse.csc_matrix, regularization: float
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """The upper Cholesky factor of X'X + regularization * I, and EASE's weights, [n, n] each.

    An item's score is the sum of the weights in its column over the history's items; the diagonal is 0.
    """
    n_items = matrix.shape[1]
    gram = np.empty((n_items, n_items))
    for start in range(0, n_items, BLOCK):
        gram[:, start : start + BLOCK] = (matrix.T @ matrix[:, start : start + BLOCK]).toarray()
    gram[np.diag_indices(n_items)] += regularization
    root = scipy.linalg.cholesky(gram, overwrite_a=True)
    precision = scipy.linalg.cho_solve((root, False), np.eye(n_items))
    weights = precision / -np.diag(precision)
    np.fill_diagonal(weights, 0)
    return root.astype(np.float32), weights.astype(np.float32)
