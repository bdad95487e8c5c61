"""An item's neighbours: where random walks over who bought what come by most often.

That is how PinSage samples neighbourhoods by importance (Ying et al. 2018, doi:10.1145/3219819.3219890).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.sparse

# Walkers that start at each item, and how often each goes on to a buyer and another of that buyer's items.
WALKERS = 200
HOPS = 2
# Walkers that are moved at a time.
BLOCK = 1 << 21


class Neighbours(NamedTuple):
    """The nearest other items of each item.

    Attributes:
        items: [n_items, neighbours] rows, nearest first; 0 where there are fewer.
        weights: [n_items, neighbours] float32 how near: shares of the visits of a walk; 0 where there are fewer.
    """

    items: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]


def walk(purchases: scipy.sparse.csr_matrix, neighbours: int, seed: int) -> Neighbours:
    """Walk from every item and keep its most visited others; an item that nobody bought has none.

    Args:
        purchases: [users, n_items] who bought what.
        neighbours: how many to keep.
        seed: of the walks.
    """
    random = np.random.default_rng(seed)
    bought, buyers = purchases.tocsr(), purchases.T.tocsr()
    n_items = purchases.shape[1]
    items = np.zeros((n_items, neighbours), np.int32)
    weights = np.zeros((n_items, neighbours), np.float32)
    starts = np.flatnonzero(buyers.getnnz(axis=1))
    block = max(1, BLOCK // WALKERS)
    for first in range(0, len(starts), block):
        origin = np.repeat(starts[first : first + block].astype(np.int64), WALKERS)
        place, visits = origin, []
        for _ in range(HOPS):
            place = _step(bought, _step(buyers, place, random), random)
            visits.append(np.stack([origin, place])[:, place != origin])
        keys, counts = np.unique(np.concatenate(visits, axis=1).T @ [n_items, 1], return_counts=True)
        owner, visited = keys // n_items, keys % n_items
        order = np.lexsort((visited, -counts, owner))
        owner, visited, counts = owner[order], visited[order], counts[order]
        rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
        kept = rank < neighbours
        items[owner[kept], rank[kept]] = visited[kept]
        weights[owner[kept], rank[kept]] = counts[kept]
    return Neighbours(items, weights / np.maximum(weights.sum(axis=1, keepdims=True), 1))


def _step(
    graph: scipy.sparse.csr_matrix, rows: npt.NDArray[np.int64], random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """A uniform neighbour of each row; every row has one."""
    start, degree = graph.indptr[rows], np.diff(graph.indptr)[rows]
    neighbours: npt.NDArray[np.int64] = graph.indices[start + (random.random(len(rows)) * degree).astype(np.int64)]
    return neighbours.astype(np.int64)
