"""Approximate search in plain TensorFlow ops, which stock TensorFlow Serving loads."""

import numpy as np
import tensorflow as tf

from twotower.features.section import Precision
from twotower.models.quantized import gather, stored
from twotower.serving.index.base import FloatMatrix, Index
from twotower.serving.index.partition import partition
from twotower.serving.index.probing import num_leaves, recall, true_rows, tune

PARALLEL_QUERIES = 4


class PortableIndex(Index):
    """Scores the rows of the leaves whose centroids have the largest dot products with the query.

    An inverted file without compression (Jegou et al., TPAMI 2011): the vectors lie leaf by leaf without padding, so
    that a probed leaf is one contiguous range, and each candidate's score is its exact dot product. A query's answer
    does not depend on its batch, but for rounding.
    """

    def __init__(
        self, embeddings: FloatMatrix, *, seed: int, wanted: float, queries: FloatMatrix, precision: Precision
    ) -> None:
        """Partitions the rows and finds how many leaves reach the wanted recall on ``queries`` [m, dim]."""
        super().__init__(*embeddings.shape)
        leaves = partition(embeddings, num_leaves(self.size), seed)
        place = np.empty_like(leaves.order)
        place[leaves.order] = np.arange(self.size, dtype=np.int32)
        self._centroids = tf.Variable(leaves.centroids, trainable=False, name="centroids")
        self._splits = tf.Variable(leaves.splits, trainable=False, name="splits")
        self._rows = tf.Variable(leaves.order, trainable=False, name="rows")
        self._places = tf.Variable(place, trainable=False, name="places")
        self._vectors = stored(embeddings[leaves.order], precision)

        truth = true_rows(self.embeddings(tf.range(self.size)).numpy(), queries)
        probe = tf.function(self._probe, autograph=False, reduce_retracing=True)

        def recall_of(k: int, count: int) -> float:
            # k rows may not fit in a few leaves: that setting misses them.
            room = int(np.sort(np.diff(leaves.splits))[:count].sum())
            _, found = probe(queries, tf.constant(min(k, room)), tf.constant(count))
            return recall(found.numpy(), truth[k])

        self._probing = tune(np.diff(leaves.splits), recall_of, wanted)

    def embeddings(self, rows: tf.Tensor) -> tf.Tensor:
        """See ``Index.embeddings``."""
        return self._vectors(gather(self._places, rows))

    def _search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._probe(queries, k, self._probing.leaves_for(k))

    def _probe(self, queries: tf.Tensor, k: tf.Tensor, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Searches ``count`` leaves a query, which must hold k rows."""
        splits, row_of = self._splits.read_value(), self._rows.read_value()
        leaves = tf.math.top_k(tf.matmul(queries, self._centroids.read_value(), transpose_b=True), count).indices
        starts, limits = tf.gather(splits, leaves), tf.gather(splits, leaves + 1)

        def search_one(args: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            query, start, limit = args
            places = tf.ragged.range(start, limit).flat_values
            best = tf.math.top_k(tf.linalg.matvec(self._vectors(places), query), k)
            return best.values, tf.gather(row_of, tf.gather(places, best.indices))

        # A query at a time: the candidates of a whole batch would take batch * rows probed * dim floats.
        scores, rows = tf.map_fn(
            search_one,
            (queries, starts, limits),
            fn_output_signature=(tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)),
            parallel_iterations=PARALLEL_QUERIES,
        )
        return scores, rows
