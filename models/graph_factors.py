"""Item vectors from the graph of who bought what, for both towers: its low frequencies, which need no training.

GF-CF (Shen et al. 2021, doi:10.1145/3459637.3482264) scores an item by an ideal low-pass filter over the item-item
graph. The filter is a matrix of low rank, so its score is a dot product too, and adds to that of the towers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse
import tensorflow as tf
from sklearn.utils.extmath import randomized_svd

from twotower.features.section import Precision
from twotower.features.timelines import Timelines
from twotower.models.family.interactions import interaction_matrix, normalised
from twotower.models.family.table_towers import distinct
from twotower.models.quantized import Float32Table, VectorTable, stored

Float32 = npt.NDArray[np.float32]

# Power iterations of the randomised SVD (Halko et al. 2011).
POWER_ITERATIONS = 3
# Users whose scores say how large the factors are.
SCALE_USERS = 200
# What a standard deviation of the graph's scores weighs against the prior's logarithm before training.
START = 0.3


class _LookedUp(Float32Table):
    """A table that is looked up and never multiplied.

    On parameter servers a lookup sends its rows alone; a read, as ``Float32Table`` does it, would send the whole table.
    """

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """See ``VectorTable``."""
        return tf.nn.embedding_lookup(self._vectors, rows)


class GraphFactors(tf.Module):
    """Fixed vectors of items, and of histories as their sum.

    Args:
        vectors: [n_items, dim] low frequencies of the item graph, of unit length each.
        degree: [n_items] buyers of each item.
    """

    def __init__(self, vectors: Float32, degree: npt.NDArray[np.float64]) -> None:
        super().__init__()
        self.dim = int(vectors.shape[1])
        self._n_items = len(vectors)
        padded = np.concatenate([vectors, np.zeros((1, self.dim), np.float32)])
        scale = 1 / np.sqrt(np.maximum(np.append(degree, 1), 1))
        self._items: VectorTable = _LookedUp(padded)
        self._history: VectorTable = _LookedUp((padded * scale[:, np.newaxis]).astype(np.float32))

    @classmethod
    def of(cls, history: Timelines, n_items: int, dim: int, min_count: int, seed: int) -> GraphFactors:
        """Decompose who bought what, of items with at least ``min_count`` buyers; the others' vectors are zero.

        Scores are scaled to a standard deviation of 1. There are fewer than ``dim`` factors if there are fewer
        users or items.
        """
        bought = interaction_matrix(history, n_items)
        degree = np.asarray(bought.sum(axis=0)).ravel()
        kept = degree >= min_count
        graph = normalised(bought @ scipy.sparse.diags(kept.astype(np.float32)))
        # The first factor is how much is bought at all, which the prior says better.
        rank = min(dim + 1, *graph.shape)
        _, _, vectors = randomized_svd(graph, rank, n_iter=POWER_ITERATIONS, random_state=seed)
        items = np.asarray(vectors[1:].T, np.float32)
        return cls(items / max(np.sqrt(deviation(graph[:SCALE_USERS] @ items, items[kept])), 1e-6), degree)

    def items(self, rows: tf.Tensor) -> tf.Tensor:
        """Catalogue rows [b] (the catalogue's size = unknown) to [b, dim]."""
        return self._items(rows)

    def history(self, rows: tf.Tensor) -> tf.Tensor:
        """Histories [b, h] of catalogue rows (the catalogue's size = padding or unknown) to [b, dim]."""
        each = distinct(rows, self._n_items)
        count = tf.cast(each.row_lengths(), tf.float32)[:, tf.newaxis]
        vectors = self._history(each.flat_values)
        total = tf.math.unsorted_segment_sum(vectors, each.value_rowids(), each.nrows())
        return tf.math.divide_no_nan(total, tf.sqrt(count))

    def store_tables(self, precision: Precision) -> None:
        """See ``HoldsTables``."""
        self._items = stored(self._items.values(), precision)
        self._history = stored(self._history.values(), precision)


def deviation(queries: Float32, items: Float32) -> float:
    """Standard deviation of all products of queries [n, dim] and items [m, dim], without the n x m matrix of them."""
    mean = queries.mean(axis=0, dtype=np.float64) @ items.mean(axis=0, dtype=np.float64)
    square = np.sum((queries.T @ queries).astype(np.float64) * (items.T @ items)) / (len(queries) * len(items))
    return float(np.sqrt(max(square - mean**2, 0.0)))
