"""Builds a candidate index from an embedding matrix."""

from typing import Literal, get_args

import numpy as np

from twotower.features.section import Precision
from twotower.serving.index.base import FloatMatrix, Index
from twotower.serving.index.exact import ExactIndex
from twotower.serving.index.portable import PortableIndex
from twotower.serving.index.probing import typical_queries

Kind = Literal["exact", "scann", "portable"]
EXACT_BELOW = 20_000
SCANN_MIN_ROWS = 1_000  # ScaNN aborts the process when there are too few rows to train on
TUNING_QUERIES = 256


def build_index(
    embeddings: FloatMatrix,
    kind: Kind,
    *,
    seed: int,
    recall: float = 0.95,
    queries: FloatMatrix | None = None,
    exact_below: int = EXACT_BELOW,
    precision: Precision = "float32",
) -> Index:
    """Builds an index over the rows of a matrix.

    The approximate kinds choose their leaves from n (the portable one makes finer ones where that pays) and tune, at
    build time, how many of them a search probes until
    recall@100 (and for larger k up to 10,000 and n / 10) is as wanted; for a larger k they probe every leaf. Vectors
    without clusters (an isotropic Gaussian) cost most leaves then, not recall.

    The same seed gives the same portable index on the same machine, and the same ScaNN index with scann 1.3.2; neither
    is promised across machines, whose floating-point libraries may sum in another order.

    Args:
      embeddings: [n, dim] float32, finite.
      kind: ``exact``; ``scann`` (needs ScaNN's ops wherever it is loaded); or ``portable`` (plain TensorFlow ops).
        Below ``exact_below`` rows every kind searches exactly, since an approximation does not pay there.
      seed: of the partition and of the sampled tuning queries, at least 0.
      recall: recall@k to tune for, in (0, 1].
      queries: [m, dim] float32 query embeddings to tune on, such as a few hundred users'; by default they are made
        from the rows, which real queries may differ from.
      exact_below: rows from which an approximation is used; for ScaNN at least 1,000.
      precision: how the vectors are stored; their products are those of the stored vectors. ScaNN stores eight bits
        for ``int4`` too, which it does not have.

    Raises:
      ValueError: for a matrix, kind, recall or queries other than described.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"kind: expected one of {', '.join(get_args(Kind))}, found {kind!r}")
    if not 0 < recall <= 1:
        raise ValueError(f"recall: expected a number in (0, 1], found {recall}")
    if seed < 0:
        raise ValueError(f"seed: expected at least 0, found {seed}")
    embeddings = _checked("embeddings", embeddings)
    if queries is not None:
        queries = _checked("queries", queries)
        if queries.shape[1] != (dim := embeddings.shape[1]):
            raise ValueError(f"queries: expected width {dim}, as the embeddings, found {queries.shape[1]}")
    if kind == "scann":
        exact_below = max(exact_below, SCANN_MIN_ROWS)
    if kind == "exact" or len(embeddings) < exact_below:
        return ExactIndex(embeddings, precision)
    if queries is None:
        queries = typical_queries(embeddings, TUNING_QUERIES, seed)
    if kind == "portable":
        return PortableIndex(embeddings, seed=seed, wanted=recall, queries=queries, precision=precision)
    # Imported on demand: it loads ScaNN's ops, which a process that serves the other kinds may not have.
    from twotower.serving.index.scann import ScannIndex

    return ScannIndex(embeddings, seed=seed, wanted=recall, queries=queries, precision=precision)


def _checked(name: str, matrix: FloatMatrix) -> FloatMatrix:
    if not isinstance(matrix, np.ndarray) or matrix.dtype != np.float32:
        raise ValueError(f"{name}: expected a float32 array, found {getattr(matrix, 'dtype', type(matrix).__name__)}")
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name}: expected a non-empty [rows, dim] matrix, found shape {matrix.shape}")
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if len(bad):
        raise ValueError(f"{name}: expected finite values, found others in {len(bad)} rows, the first row {bad[0]}")
    return np.ascontiguousarray(matrix)
