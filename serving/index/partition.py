"""Partitions rows by k-means and lays the partitions out one after another."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.cluster import MiniBatchKMeans  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from twotower.serving.index.base import FloatMatrix

ROWS_PER_LEAF = 64  # training rows for each leaf, at least
MIN_TRAINING_ROWS = 100_000
BLOCK_ELEMENTS = 1 << 24
SMALLEST_SHARE = 1 / 8  # of the mean leaf: what is smaller costs a centroid and holds too few rows to fill a list


@dataclass(frozen=True)
class Partition:
    """Rows grouped by their nearest centroid, no leaf empty or much smaller than the others.

    Attributes:
      centroids: [leaves, dim] float32, the mean of each leaf's rows.
      order: [n] int32, the rows leaf by leaf, ascending within a leaf.
      splits: [leaves + 1] int32; leaf i is ``order[splits[i]:splits[i + 1]]``.
    """

    centroids: FloatMatrix
    order: npt.NDArray[np.int32]
    splits: npt.NDArray[np.int32]


def partition(embeddings: FloatMatrix, leaves: int, seed: int) -> Partition:
    """Groups rows by mini-batch k-means (Sculley, WWW 2010), trained on a sample of a large matrix.

    The same seed, matrix and machine give the same partition: training runs on one thread, as sums in the order in
    which threads finish would differ in their last bits.
    """
    rng = np.random.default_rng(seed)
    training = min(len(embeddings), max(MIN_TRAINING_ROWS, ROWS_PER_LEAF * leaves))
    sample = embeddings[np.sort(rng.choice(len(embeddings), training, replace=False))]
    kmeans = MiniBatchKMeans(
        leaves, random_state=seed, batch_size=4096, max_iter=10, n_init=1, init_size=3 * leaves, compute_labels=False
    )
    with threadpool_limits(1):
        kmeans.fit(sample)
    centroids = np.asarray(kmeans.cluster_centers_, np.float32)
    leaf = nearest(embeddings, centroids)
    kept = np.bincount(leaf, minlength=leaves) >= max(1.0, SMALLEST_SHARE * len(embeddings) / leaves)
    moved = np.flatnonzero(~kept[leaf])
    if len(moved):
        leaf[moved] = np.flatnonzero(kept)[nearest(embeddings[moved], centroids[kept])]
    order = np.argsort(leaf, kind="stable").astype(np.int32)
    sizes = np.bincount(leaf)
    sizes = sizes[sizes > 0]
    splits = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    sums = np.add.reduceat(embeddings[order], splits[:-1], axis=0)
    return Partition((sums / sizes[:, None]).astype(np.float32), order, splits)


def nearest(embeddings: FloatMatrix, centroids: FloatMatrix) -> npt.NDArray[np.int64]:
    """The centroid with the smallest Euclidean distance to each row, [n] int64."""
    bias = 0.5 * np.square(centroids).sum(axis=1)
    block = max(1, BLOCK_ELEMENTS // len(centroids))
    return np.concatenate(
        [
            np.argmax(embeddings[start : start + block] @ centroids.T - bias, axis=1)
            for start in range(0, len(embeddings), block)
        ]
    )
