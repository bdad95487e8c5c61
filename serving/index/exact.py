"""Exact search: every row is scored."""

import tensorflow as tf

from twotower.features.section import Precision
from twotower.models.quantized import stored
from twotower.serving.index.base import FloatMatrix, Index

SCORES_PER_BLOCK = 1 << 24  # 64 MiB of float32 scores at a time, whatever the batch


class ExactIndex(Index):
    """Scores every row by a matrix product, a block of queries at a time, and keeps the k best."""

    def __init__(self, embeddings: FloatMatrix, precision: Precision = "float32") -> None:
        super().__init__(*embeddings.shape)
        self._vectors = stored(embeddings, precision)

    def embeddings(self, rows: tf.Tensor) -> tf.Tensor:
        """See ``Index.embeddings``."""
        return self._vectors(rows)

    def _search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        block = max(1, SCORES_PER_BLOCK // self.size)
        blocks = (tf.shape(queries)[0] + block - 1) // block

        def score_block(
            i: tf.Tensor, scores: tf.TensorArray, rows: tf.TensorArray
        ) -> tuple[tf.Tensor, tf.TensorArray, tf.TensorArray]:
            best = tf.math.top_k(self._vectors.products(queries[i * block : (i + 1) * block]), k)
            return i + 1, scores.write(i, best.values), rows.write(i, best.indices)

        _, scores, rows = tf.while_loop(
            lambda i, *_: i < blocks,
            score_block,
            (
                tf.constant(0),
                tf.TensorArray(tf.float32, blocks, infer_shape=False, element_shape=[None, None]),
                tf.TensorArray(tf.int32, blocks, infer_shape=False, element_shape=[None, None]),
            ),
            parallel_iterations=1,
        )
        return scores.concat(), rows.concat()
