"""What every candidate index can do."""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

FloatMatrix = npt.NDArray[np.float32]


class Index(tf.Module):  # type: ignore[misc]
    """The rows of an embedding matrix, searched for the largest dot products with a query.

    An index is made of TensorFlow ops and tracked variables only. Assigned to an attribute of another ``tf.Module``
    and called in its ``tf.function``s, it is saved and restored with that module.

    Attributes:
      size: number of rows, n.
      dim: width of a row.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.dim = dim

    def search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Finds the rows with the largest dot products, best first.

        Args:
          queries: [b, dim] float32, finite; b may be 0.
          k: [] int32, at least 1; it may exceed n. Memory grows with b * k: a caller that passes on a client's k
            bounds it first.

        Returns:
          scores [b, k] float32, non-increasing along a list, each the exact dot product of its row as it is stored;
          rows [b, k] int32, none twice in a list. Where fewer than k rows were found, the tail holds row -1 and
          score -inf.

        Raises:
          ValueError: while tracing, if the width of ``queries`` is known and is not ``dim``.
          tf.errors.InvalidArgumentError: when run, for another width, a NaN or infinite query, or k below 1.
        """
        queries = tf.ensure_shape(tf.convert_to_tensor(queries, tf.float32), [None, self.dim])
        queries = tf.debugging.assert_all_finite(queries, "queries: expected finite values, found NaN or infinity")
        k = tf.convert_to_tensor(k, tf.int32)
        with tf.control_dependencies([tf.debugging.assert_positive(k, "k: expected at least 1")]):
            k = tf.identity(k)
        batch = tf.shape(queries)[0]
        # An empty batch is searched as one query of zeros whose answer is dropped: list ops and ScaNN lose the width
        # of the answer otherwise.
        at_least_one = tf.pad(queries, [[0, tf.cast(tf.equal(batch, 0), tf.int32)], [0, 0]])
        scores, rows = self._search(at_least_one, tf.minimum(k, self.size))
        tail = [[0, 0], [0, k - tf.shape(rows)[1]]]
        scores = tf.pad(scores[:batch], tail, constant_values=float("-inf"))
        rows = tf.pad(rows[:batch], tail, constant_values=-1)
        return tf.ensure_shape(scores, [None, None]), tf.ensure_shape(rows, [None, None])

    def embeddings(self, rows: tf.Tensor) -> tf.Tensor:
        """Looks up rows of the indexed matrix, so that nobody stores it a second time.

        Args:
          rows: int32 of any shape, each in [0, n).

        Returns:
          float32 of shape ``rows.shape + [dim]``, bit for bit what was indexed, or as near as the index stores it.

        Raises:
          tf.errors.InvalidArgumentError: when run, if a row is outside [0, n).
        """
        raise NotImplementedError

    def _search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Searches at least one query for 1 <= k <= n rows; returns scores and rows [b, w], w <= k, in order."""
        raise NotImplementedError
