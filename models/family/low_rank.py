"""The items' side of a truncated singular value decomposition, which makes two towers of an item-item matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from sklearn.utils.extmath import randomized_svd

from twotower.models.family.table_towers import Float32

# Singular values below this share of the largest are rounding.
TOLERANCE = 1e-6


def right_singular(matrix: Any, rank: int, seed: int) -> tuple[Float32, Float32]:
    """The largest singular values [r] and their right vectors V [n_items, r].

    matrix @ V @ V.T is the nearest matrix of rank ``rank``; one that the matrix does not exceed keeps it whole.

    Args:
        matrix: [any, n_items] array, scipy sparse matrix or ``LinearOperator`` of float32.
        rank: how many singular vectors are kept.
        seed: of the start vectors.
    """
    if rank >= min(matrix.shape):
        _, values, right = scipy.linalg.svd(_dense(matrix), full_matrices=False)
    elif isinstance(matrix, scipy.sparse.linalg.LinearOperator):
        _, values, right = scipy.sparse.linalg.svds(matrix, rank, random_state=seed)
    else:
        _, values, right = randomized_svd(matrix, rank, random_state=seed)
    kept = values > TOLERANCE * values.max()
    return values[kept].astype(np.float32), right[kept].T.astype(np.float32)


def split(values: Float32) -> Float32:
    """[r] what the candidates' vectors are multiplied and the queries' divided by: the root of the singular values.

    It changes no score. But the likeness of two items then depends more on what says more, and no table has
    columns so small that few bits cannot store them.
    """
    return np.sqrt(values)


def _dense(matrix: Any) -> Any:
    if scipy.sparse.issparse(matrix):
        return matrix.toarray()
    if isinstance(matrix, scipy.sparse.linalg.LinearOperator):
        rows, columns = matrix.shape
        return matrix.matmat(np.eye(columns)) if columns < rows else matrix.rmatmat(np.eye(rows)).T
    return matrix
