"""Approximate search in plain TensorFlow ops, which stock TensorFlow Serving loads."""

import numpy as np
import tensorflow as tf

from twotower.features.section import Precision
from twotower.models.quantized import gather, stored
from twotower.serving.index.base import FloatMatrix, Index
from twotower.serving.index.leaves import choose_leaves
from twotower.serving.index.probing import true_rows

PARALLEL_QUERIES = 4
# Leaves that a graph names one by one; more are searched in a loop over blocks of leaves.
MOST_UNROLLED = 64
LEAVES_PER_BLOCK = 16


class PortableIndex(Index):
    """Scores the rows of the leaves that promise a query the most.

    An inverted file without compression (Jegou et al., TPAMI 2011): the vectors lie leaf by leaf without padding, so
    that a leaf is a slice, which TensorFlow multiplies where it lies, without a copy. Each candidate's score is its
    exact dot product. Leaves are ranked by their centroids and by how far their rows spread along queries
    (``serving/index/leaves.py``). A query's answer does not depend on its batch, but for rounding.

    Attributes:
      probing: how many leaves a query looks into; another one may be set before the index is traced.
    """

    def __init__(
        self, embeddings: FloatMatrix, *, seed: int, wanted: float, queries: FloatMatrix, precision: Precision
    ) -> None:
        """Partitions the rows and finds the leaves that reach the wanted recall on ``queries`` [m, dim]."""
        super().__init__(*embeddings.shape)
        leaves = choose_leaves(embeddings, seed, queries, true_rows(embeddings, queries, precision), wanted)
        order = leaves.partition.order
        place = np.empty_like(order)
        place[order] = np.arange(self.size, dtype=np.int32)
        self._ranking = tf.Variable(leaves.ranking, trainable=False, name="ranking")
        self._splits = tf.Variable(leaves.partition.splits, trainable=False, name="splits")
        self._rows = tf.Variable(order, trainable=False, name="rows")
        self._places = tf.Variable(place, trainable=False, name="places")
        self._vectors = stored(embeddings[order], precision)
        self.probing = leaves.probing

    def embeddings(self, rows: tf.Tensor) -> tf.Tensor:
        """See ``Index.embeddings``."""
        return self._vectors(gather(self._places, rows))

    def _search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        count, usual = self.probing.leaves_for(k), min(self.probing.leaves[0], MOST_UNROLLED)
        found: tuple[tf.Tensor, tf.Tensor] = tf.cond(
            count <= usual, lambda: self._probe(queries, k, usual), lambda: self._probe(queries, k, count)
        )
        return found

    def _probe(self, queries: tf.Tensor, k: tf.Tensor, count: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Searches ``count`` leaves a query, which must hold k rows."""
        lengths = tf.norm(queries, axis=1, keepdims=True)
        promises = tf.matmul(tf.concat([queries, lengths], axis=1), self._ranking.read_value(), transpose_b=True)
        leaves = tf.math.top_k(promises, count, sorted=False).indices
        splits, row_of = self._splits.read_value(), self._rows.read_value()

        def search_one(args: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            query, leaf = args
            starts, limits = tf.gather(splits, leaf), tf.gather(splits, leaf + 1)
            multiply = self._multiply if isinstance(count, int) else self._multiply_blocks
            best = tf.math.top_k(multiply(query[tf.newaxis], starts, limits), k)
            # From the position among the probed rows to the place among all.
            ends = tf.cumsum(limits - starts)
            shifts = tf.gather(limits - ends, tf.searchsorted(ends, best.indices, side="right"))
            return best.values, tf.gather(row_of, best.indices + shifts)

        def search_alone() -> tuple[tf.Tensor, tf.Tensor]:
            scores, rows = search_one((queries[0], leaves[0]))
            return scores[tf.newaxis], rows[tf.newaxis]

        def search_each() -> tuple[tf.Tensor, tf.Tensor]:
            # A query at a time: the scores of a whole batch would take batch * rows probed floats.
            found: tuple[tf.Tensor, tf.Tensor] = tf.map_fn(
                search_one,
                (queries, leaves),
                fn_output_signature=(tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)),
                parallel_iterations=PARALLEL_QUERIES,
            )
            return found

        # The loop alone takes 0.1 ms.
        found: tuple[tf.Tensor, tf.Tensor] = tf.cond(tf.equal(tf.shape(queries)[0], 1), search_alone, search_each)
        return found

    def _multiply(self, query: tf.Tensor, starts: tf.Tensor, limits: tf.Tensor) -> tf.Tensor:
        """Products of a query [1, dim] with the rows of each leaf, one after another, for a known number of leaves."""
        ranges = zip(tf.split(starts, starts.shape[0]), tf.split(limits, limits.shape[0]), strict=True)
        products = [self._vectors.range_products(start, limit, query) for start, limit in ranges]
        return tf.concat(products, axis=0)[:, 0]

    def _multiply_blocks(self, query: tf.Tensor, starts: tf.Tensor, limits: tf.Tensor) -> tf.Tensor:
        """The same for any number of leaves."""
        blocks = -(-tf.size(starts) // LEAVES_PER_BLOCK)
        rest = [[0, blocks * LEAVES_PER_BLOCK - tf.size(starts)]]
        starts, limits = (tf.reshape(tf.pad(at, rest), [-1, LEAVES_PER_BLOCK]) for at in (starts, limits))

        def multiply(i: tf.Tensor, products: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            return i + 1, products.write(i, self._multiply(query, starts[i], limits[i]))

        found = tf.TensorArray(tf.float32, blocks, infer_shape=False, element_shape=[None])
        _, found = tf.while_loop(lambda i, _: i < blocks, multiply, (tf.constant(0), found), parallel_iterations=1)
        return found.concat()
