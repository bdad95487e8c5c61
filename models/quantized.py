"""Tables of vectors as they are stored and served: float32, int8, or two 4-bit numbers a byte.

A quantised row is whole numbers times a scale of its own (float16) times a scale for each column. Rows differ in
length (popular items are long) and columns in spread (a bias is wider than a factor), so that either scale alone
loses accuracy. Only the rows that are asked for become floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.section import Precision

Float32 = npt.NDArray[np.float32]

# The largest whole number of each width; its negative is the smallest, so that 0 stays 0.
LARGEST = {"int8": 127, "int4": 7}
# Row scales are shifted to end here: float16 then holds rows down to 2^-39 of the longest one.
LARGEST_ROW_SCALE = 2.0**15
# Floats that one block of a product with every row makes of the stored numbers: 4 MiB.
BLOCK_FLOATS = 1 << 20


class VectorTable(tf.Module):
    """A table [size, dim]; called with rows of any shape it gives their vectors, ``rows.shape + [dim]`` float32.

    Attributes:
        size: number of rows.
        dim: width of a row.
        precision: how the numbers are stored.
    """

    def __init__(self, size: int, dim: int, precision: Precision) -> None:
        super().__init__()
        self.size, self.dim, self.precision = size, dim, precision

    @property
    def nbytes(self) -> int:
        """Bytes of the stored variables."""
        return sum(variable.numpy().nbytes for variable in self.variables)

    def values(self) -> Float32:
        """The whole table as it is served, [size, dim]."""
        return np.asarray(self(tf.range(self.size)))

    def products(self, queries: tf.Tensor) -> tf.Tensor:
        """Dot products of queries [b, dim] with every row, [b, size]."""
        raise NotImplementedError

    def range_products(self, start: tf.Tensor, limit: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
        """Dot products of the rows from ``start`` to before ``limit``, both [1] int32, with queries: [rows, b].

        Neighbours are read where they lie; only quantised ones become floats first.
        """
        raise NotImplementedError

    def sums(self, rows: tf.RaggedTensor) -> tf.Tensor:
        """The sum of each list's vectors, for lists [b, (rows)]: [b, dim]."""
        found = self(rows.flat_values)
        return tf.math.unsorted_segment_sum(found, rows.value_rowids(), rows.nrows())

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """Look rows up."""
        raise NotImplementedError


class Float32Table(VectorTable):
    """The vectors as they are."""

    def __init__(self, values: Float32) -> None:
        super().__init__(values.shape[0], values.shape[1], "float32")
        self._vectors = tf.Variable(values, trainable=False, dtype=tf.float32, name="vectors")

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """See ``VectorTable``."""
        return gather(self._vectors, rows)

    def sums(self, rows: tf.RaggedTensor) -> tf.Tensor:
        """See ``VectorTable.sums``; the rows are not copied out first."""
        vectors = self._vectors.read_value()
        return tf.sparse.segment_sum(vectors, rows.flat_values, rows.value_rowids(), num_segments=rows.nrows())

    def products(self, queries: tf.Tensor) -> tf.Tensor:
        """See ``VectorTable.products``."""
        return tf.matmul(queries, self._vectors.read_value(), transpose_b=True)

    def range_products(self, start: tf.Tensor, limit: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
        """See ``VectorTable.range_products``."""
        return tf.matmul(tf.strided_slice(self._vectors.read_value(), start, limit), queries, transpose_b=True)


class QuantizedTable(VectorTable):
    """The vectors as whole numbers of 8 or 4 bits, a float16 scale a row and a float32 scale a column.

    Column scales are powers of two near the columns' root mean square, and a row's scale puts its largest number at
    the end of the range: a table that is read and quantised again stays what it is, unless a column's spread was at
    the brink between two powers.
    """

    def __init__(self, values: Float32, precision: Literal["int8", "int4"]) -> None:
        super().__init__(values.shape[0], values.shape[1], precision)
        spread = np.sqrt(np.mean(np.square(values, dtype=np.float64), axis=0))
        columns = np.exp2(np.round(np.log2(np.where(spread > 0, spread, 1.0)))).astype(np.float32)
        longest = max((np.abs(block / columns).max() for block in _blocks(values)), default=0.0)
        shift = np.exp2(np.floor(np.log2(LARGEST_ROW_SCALE * LARGEST[precision] / longest))) if longest > 0 else 1.0
        columns = np.asarray(columns / shift, np.float32)
        parts = [_rounded(block / columns, LARGEST[precision]) for block in _blocks(values)]
        rows, whole = (np.concatenate(each) for each in zip(*parts, strict=True))
        stored = whole if precision == "int8" else _packed(whole)
        self._numbers = tf.Variable(stored, trainable=False, name="numbers")
        self._rows = tf.Variable(rows, trainable=False, name="row_scales")
        self._columns = tf.Variable(columns, trainable=False, name="column_scales")

    def __call__(self, rows: tf.Tensor) -> tf.Tensor:
        """See ``VectorTable``."""
        scales = tf.cast(gather(self._rows, rows), tf.float32)[..., tf.newaxis]
        return self._floats(gather(self._numbers, rows)) * scales * self._columns

    def products(self, queries: tf.Tensor) -> tf.Tensor:
        """See ``VectorTable.products``; a block of rows becomes floats at a time."""
        block = max(1, BLOCK_FLOATS // self.dim)
        blocks = -(-self.size // block)

        def multiply(i: tf.Tensor, products: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            start = i[tf.newaxis] * block
            return i + 1, products.write(i, self.range_products(start, start + block, queries))

        found = tf.TensorArray(tf.float32, blocks, infer_shape=False, element_shape=[None, None])
        _, found = tf.while_loop(lambda i, _: i < blocks, multiply, (tf.constant(0), found), parallel_iterations=1)
        return tf.transpose(found.concat())

    def range_products(self, start: tf.Tensor, limit: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
        """See ``VectorTable.range_products``."""
        numbers, scales = (tf.strided_slice(v.read_value(), start, limit) for v in (self._numbers, self._rows))
        found = tf.matmul(self._floats(numbers), queries * self._columns, transpose_b=True)
        return found * tf.cast(scales, tf.float32)[:, tf.newaxis]

    def _floats(self, numbers: tf.Tensor) -> tf.Tensor:
        """Stored numbers [..., bytes] as float32 [..., dim]."""
        if self.precision == "int4":
            low, high = tf.bitwise.bitwise_and(numbers, 15), tf.bitwise.right_shift(numbers, 4)
            return tf.cast(tf.concat([low, high], axis=-1)[..., : self.dim], tf.float32) - 8.0
        return tf.cast(numbers, tf.float32)


def _blocks(values: Float32) -> Iterator[Float32]:
    """Blocks of rows, so that no other table as large as ``values`` is made."""
    step = max(1, BLOCK_FLOATS // max(1, values.shape[1]))
    for start in range(0, max(1, len(values)), step):
        yield values[start : start + step]


def _rounded(values: Float32, largest: int) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.int8]]:
    """Row scales [n] and whole numbers [n, dim] whose product is nearest to the values; no value is cut.

    Ranges that end below a row's largest number have less squared error with four bits, but rank worse: on Gowalla
    with 1,024 factors they lost 3.5% of NDCG@20 and this loses nothing (benchmarks/README.md).
    """
    scales = (np.abs(values).max(axis=1, initial=0) / largest).astype(np.float16)
    steps = scales.astype(np.float32)[:, np.newaxis]
    whole = np.rint(np.divide(values, steps, out=np.zeros_like(values), where=steps > 0))
    # A scale that float16 rounded down would end beyond the range.
    return scales, np.clip(whole, -largest, largest).astype(np.int8)


def _packed(whole: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Numbers of -8 to 7, [n, dim], two a byte: the first half of the columns in the low bits, the rest in the high."""
    shifted = (whole + 8).astype(np.uint8)
    half = -(-whole.shape[1] // 2)
    high = np.zeros((len(whole), half), np.uint8)
    high[:, : whole.shape[1] - half] = shifted[:, half:]
    return np.asarray(shifted[:, :half] | (high << 4), np.uint8)


def gather(values: tf.Variable, at: tf.Tensor) -> tf.Tensor:
    """Gathers rows of a variable.

    ``tf.gather`` on a variable itself runs ResourceGather, which sets the variable to copy on every later read: each
    matmul with it would then copy the whole matrix first.
    """
    return tf.gather(values.read_value(), at)


def stored(values: Float32, precision: Precision) -> VectorTable:
    """A table of ``values`` [n, dim], finite, at a precision."""
    return Float32Table(values) if precision == "float32" else QuantizedTable(values, precision)


@runtime_checkable
class HoldsTables(Protocol):
    """A part of a tower with tables that need not be stored as they were trained."""

    def store_tables(self, precision: Precision) -> None:
        """Replace the part's tables by ones of the given precision; it is not trained after that."""


def store_tables(towers: tuple[tf.Module, ...], precision: Precision) -> None:
    """Store every table of the towers at a precision, in place; float32 leaves them as they are."""
    if precision == "float32":
        return
    parts = {id(part): part for tower in towers for part in (tower, *tower.submodules)}
    for part in parts.values():
        if isinstance(part, HoldsTables):
            part.store_tables(precision)
