"""The best ``k`` of every row of scores, exactly: what full-catalogue ranking spends its time on."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Scores: TypeAlias = npt.NDArray[np.floating[Any]]

# Scores held at a time: few enough to stay in a processor's cache between the product and the search in it.
BLOCK_SCORES = 1 << 22

# Columns of a group; at 32 the maxima of the groups cost one pass over the scores, and few groups are looked into.
GROUP = 32


def top_k(scores: Scores, k: int) -> Int64:
    """Columns of the ``min(k, n)`` highest scores of each row of [b, n], best first, ties by lower column."""
    rows, n = scores.shape
    groups = n // GROUP
    if k >= groups:
        return _partitioned(scores, k)
    # Column g + j * groups belongs to group g, so that the maxima are elementwise maxima of long slices.
    whole = scores[:, : groups * GROUP].reshape(rows, GROUP, groups)
    maxima = whole.max(axis=1)
    # k groups reach the bound, and so k scores do: what is below it is not among the best k.
    bound = np.partition(maxima, groups - k, axis=1)[:, groups - k]
    row, group = np.nonzero(maxima >= bound[:, None])
    if len(row) > 4 * k * rows:  # most scores are equal
        return _partitioned(scores, k)
    inside = whole[row, :, group]
    pair, place = np.nonzero(inside >= bound[row, None])
    rest = scores[:, groups * GROUP :]
    rest_row, rest_column = np.nonzero(rest >= bound[:, None])
    row = np.concatenate([row[pair], rest_row])
    column = np.concatenate([group[pair] + place * groups, rest_column + groups * GROUP])
    value = np.concatenate([inside[pair, place], rest[rest_row, rest_column]])
    order = np.lexsort((column, -value, row))
    starts = np.searchsorted(row[order], np.arange(rows))
    best: Int64 = column[order][starts[:, None] + np.arange(k)]
    return best


def top_k_products(queries: Float32, items: Float32, k: int) -> Int64:
    """Rows [b, min(k, n)] of ``items`` [n, dim] with the highest dot products with ``queries`` [b, dim], best first.

    In blocks of queries: the scores of all of them at once would not fit where the catalogue is large.
    """
    block = max(1, BLOCK_SCORES // len(items))
    starts = range(0, len(queries), block)
    return np.concatenate([top_k(queries[start : start + block] @ items.T, k) for start in starts])


def _partitioned(scores: Scores, k: int) -> Int64:
    """The same, by a partition of whole rows."""
    if k >= scores.shape[1]:
        return np.argsort(-scores, axis=1, kind="stable")
    best = np.argpartition(scores, -k, axis=1)[:, -k:]
    lowest = np.take_along_axis(scores, best, axis=1).min(axis=1)
    tied_inside = np.count_nonzero(np.take_along_axis(scores, best, axis=1) == lowest[:, None], axis=1)
    tied = np.count_nonzero(scores == lowest[:, None], axis=1)
    # A partition picks any of the scores that tie for the last places: put the lowest columns there.
    for row in np.flatnonzero(tied > tied_inside):
        above = np.flatnonzero(scores[row] > lowest[row])
        best[row] = np.concatenate([above, np.flatnonzero(scores[row] == lowest[row])[: k - len(above)]])
    best.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)
