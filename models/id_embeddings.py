"""Embeddings of ids: a row for each, rows shared by hashing, or two small tables whose rows are multiplied."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.model_choices import IdTable, TwoTower
from twotower.features.section import Precision
from twotower.models.quantized import VectorTable, stored

# Spread of an id's vector before training.
STDDEV = 0.05


class IdEmbedding(tf.keras.layers.Layer):
    """Embedding of ids; rare and unknown ones share one row, which id dropout trains.

    Without dropout that row would never be trained, and unknown ids would get an arbitrary vector.

    Args:
        counts: [ids] how often training saw each; the vocabulary's size stands for an unknown one.
        min_count: ids seen less often count as unknown.
        dim: width of a vector.
        dropout: share of ids that training replaces by unknown.
        table: how known ids share rows: not at all (``full``), or as the two classes below.
        buckets: their rows.
    """

    def __init__(
        self,
        counts: npt.NDArray[np.int64],
        *,
        min_count: int,
        dim: int,
        dropout: float,
        table: IdTable = "full",
        buckets: int = 1,
        **kwargs: object,
    ) -> None:
        super().__init__(**kwargs)
        # Vocabulary rows of the ids with a vector of their own, in the order of the vectors.
        self.known = known = np.flatnonzero(counts >= min_count)
        rows = np.full(len(counts) + 1, len(known))
        rows[known] = np.arange(len(known))
        self._unknown = len(known)
        # The narrowest type: beside a small table, four bytes an id would count. A cluster's workers, whose towers are
        # not the ones that are served, send each other no such types.
        narrowest = np.int32 if tf.distribute.has_strategy() else np.min_scalar_type(len(known))
        self._rows = tf.Variable(rows.astype(narrowest), trainable=False, name="rows")
        self._dropout = dropout
        if table == "full":
            self.embedding = _embedding(len(known) + 1, dim)
        else:
            shared = HashedTable if table == "hashed" else QuotientRemainderTable
            self.embedding = shared(len(known), buckets, dim)

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Vocabulary rows [...] (the vocabulary's size = unknown) to [..., dim]."""
        rows = tf.cast(tf.gather(self._rows, ids), tf.int32)
        if training and self._dropout > 0:
            dropped = tf.random.uniform(tf.shape(rows)) < self._dropout
            rows = tf.where(dropped, self._unknown, rows)
        return self.embedding(rows)

    def store_tables(self, precision: Precision) -> None:
        """See ``HoldsTables``; shared tables do it themselves."""
        if not isinstance(self.embedding, HashedTable | QuotientRemainderTable):
            self.embedding = _stored(self.embedding, precision)


class HashedTable(tf.keras.layers.Layer):
    """Rows with the same remainder by ``buckets`` share a vector (the hashing trick); row ``size`` has its own."""

    def __init__(self, size: int, buckets: int, dim: int) -> None:
        super().__init__()
        self._size, self._buckets = size, buckets
        self.vectors = _embedding(buckets + 1, dim)

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Rows [...] of 0 to ``size`` to [..., dim]."""
        return self.vectors(tf.where(rows == self._size, self._buckets, rows % self._buckets))

    def store_tables(self, precision: Precision) -> None:
        """See ``HoldsTables``."""
        self.vectors = _stored(self.vectors, precision)


class QuotientRemainderTable(tf.keras.layers.Layer):
    """A vector for a row's remainder by ``buckets`` times one for its quotient (Shi et al. 2020, arXiv:1909.02107).

    No two rows have both in common, so that each has a vector of its own from ``buckets + size / buckets`` rows.
    """

    def __init__(self, size: int, buckets: int, dim: int) -> None:
        super().__init__()
        self._size, self._buckets = size, buckets
        self._quotients = -(-size // buckets)
        self.remainder = _embedding(buckets + 1, dim)
        # Around 1, so that the products start as the remainders' vectors do.
        self.quotient = _embedding(self._quotients + 1, dim, mean=1.0)

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Rows [...] of 0 to ``size``, which has vectors of its own in both tables, to [..., dim]."""
        unknown = rows == self._size
        remainders = tf.where(unknown, self._buckets, rows % self._buckets)
        quotients = tf.where(unknown, self._quotients, rows // self._buckets)
        return self.remainder(remainders) * self.quotient(quotients)

    def store_tables(self, precision: Precision) -> None:
        """See ``HoldsTables``."""
        self.remainder, self.quotient = _stored(self.remainder, precision), _stored(self.quotient, precision)


def id_embedding(choice: TwoTower, counts: npt.NDArray[np.int64], name: str) -> IdEmbedding:
    """The embedding that the settings ask for, of ids that training saw ``counts`` [ids] times."""
    return IdEmbedding(
        counts,
        min_count=choice.min_id_count,
        dim=choice.embedding_dim - 1,
        dropout=choice.id_dropout,
        table=choice.id_table,
        buckets=choice.id_buckets,
        name=name,
    )


def _embedding(rows: int, dim: int, mean: float = 0.0) -> tf.keras.layers.Embedding:
    initializer = tf.keras.initializers.RandomNormal(mean=mean, stddev=STDDEV)
    return tf.keras.layers.Embedding(rows, dim, embeddings_initializer=initializer)


def _stored(table: tf.keras.layers.Embedding | VectorTable, precision: Precision) -> VectorTable:
    values = table.values() if isinstance(table, VectorTable) else table.embeddings.numpy()
    return stored(values, precision)
