"""An index as a SavedModel of its own, which the servable composes."""

from __future__ import annotations

import tensorflow as tf

from twotower.serving.index.base import Index


class IndexExport(tf.Module):
    """``search(queries, k)`` and ``embeddings(rows)`` of an ``Index``."""

    def __init__(self, index: Index) -> None:
        super().__init__()
        self._index = index
        queries, k = tf.TensorSpec([None, index.dim], tf.float32), tf.TensorSpec([], tf.int32)
        self.search = tf.function(index.search, [queries, k], autograph=False)
        self.embeddings = tf.function(index.embeddings, [tf.TensorSpec(None, tf.int32)], autograph=False)
