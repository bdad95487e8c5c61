"""Which leaves a query looks into: how many there are, how they are ranked, and how many of them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from twotower.serving.index.base import FloatMatrix
from twotower.serving.index.partition import Partition, partition
from twotower.serving.index.probing import Probing, num_leaves, tune, tuned_ks

# A leaf of n rows whose products with a query are spread by s holds a best row some sqrt(2 ln n) * s above its mean;
# vectors are no Gaussians, so the weight of the spread is tuned: 0 ranks leaves by their centroids alone.
SPREAD_WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0)
# What one query costs, in rows scored (12 ns at 64 dimensions, on one core of an AMD EPYC): a centroid is scored as a
# row is, and sorted among many; a leaf takes the overhead of its two ops, whatever it holds.
CENTROID_COST = 1.6
LEAF_COST = 375.0


@dataclass(frozen=True)
class Leaves:
    """A partition, and the order in which a query looks into its leaves.

    Attributes:
      partition: rows by leaf.
      ranking: [leaves, dim + 1] float32; the leaf with the largest product with a query and, as its last dimension, the
        query's length comes first.
      probing: how many leaves a query looks into.
      probed: rows that a query for the smallest tuned k scores on average, and what finding them costs, in rows.
    """

    partition: Partition
    ranking: FloatMatrix
    probing: Probing
    probed: float

    @property
    def cost(self) -> float:
        """What a query for the smallest tuned k costs, in rows scored."""
        return self.probed + CENTROID_COST * len(self.ranking)


def choose_leaves(
    embeddings: FloatMatrix, seed: int, queries: FloatMatrix, truth: dict[int, npt.NDArray[np.int32]], wanted: float
) -> Leaves:
    """Partitions the rows into leaves by ScaNN's rule of thumb, and twice as many for as long as that pays.

    Args:
      embeddings: [n, dim] rows.
      seed: of the partitions.
      queries: [m, dim] tuning queries.
      truth: for each tuned k, the best rows [m, k] of each query.
      wanted: recall in (0, 1].
    """
    count = num_leaves(len(embeddings))
    best = rank_leaves(embeddings, partition(embeddings, count, seed), queries, truth, wanted)
    # Leaves half as large can halve what is probed, for as many centroids again. A partition takes long to make.
    while best.probed / 2 > CENTROID_COST * count and 2 * count <= len(embeddings):
        count *= 2
        finer = rank_leaves(embeddings, partition(embeddings, count, seed), queries, truth, wanted)
        if finer.cost >= best.cost:
            break
        best = finer
    return best


def rank_leaves(
    embeddings: FloatMatrix,
    leaves: Partition,
    queries: FloatMatrix,
    truth: dict[int, npt.NDArray[np.int32]],
    wanted: float,
) -> Leaves:
    """Finds the weight of the leaves' spread, and the number of leaves, that reach a recall at the least cost."""
    sizes = np.diff(leaves.splits)
    leaf_of = np.empty(len(embeddings), np.int32)
    leaf_of[leaves.order] = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    spread = row_spread(embeddings, leaves, queries / np.maximum(lengths, np.finfo(np.float32).tiny))
    by_centroid, by_spread = queries @ leaves.centroids.T, lengths * spread
    true_leaves = {k: leaf_of[truth[k]] for k in tuned_ks(len(embeddings))}
    found: list[Leaves] = []
    for weight in SPREAD_WEIGHTS:
        order = np.argsort(-(by_centroid + weight * by_spread), axis=1, kind="stable")
        ranks = np.argsort(order, axis=1)
        # A probed leaf is scored exactly: its rows that are among the best are found.
        true_ranks = {k: np.take_along_axis(ranks, at, axis=1) for k, at in true_leaves.items()}
        probing = tune(sizes, lambda k, count, found=true_ranks: float((found[k] < count).mean()), wanted)  # type: ignore[misc]
        count = probing.leaves[0]
        probed = sizes[order[:, :count]].sum(axis=1).mean() + LEAF_COST * count
        ranking = np.column_stack([leaves.centroids, weight * spread]).astype(np.float32)
        found.append(Leaves(leaves, ranking, probing, float(probed)))
    return min(found, key=lambda each: each.probed)


def row_spread(embeddings: FloatMatrix, leaves: Partition, directions: FloatMatrix) -> FloatMatrix:
    """How far a leaf's rows are from its centroid along unit vectors [m, dim]: root mean squares, [leaves] float32."""
    moment = directions.T @ directions / len(directions)
    squares = np.empty(len(leaves.centroids), np.float32)
    for i, centroid in enumerate(leaves.centroids):
        rest = embeddings[leaves.order[leaves.splits[i] : leaves.splits[i + 1]]] - centroid
        squares[i] = np.einsum("nd,nd->", rest @ moment, rest) / len(rest)
    spread: FloatMatrix = np.sqrt(np.maximum(squares, 0))
    return spread
