"""How many leaves of a partitioned index a search has to look into."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.section import Precision
from twotower.serving.index.base import FloatMatrix
from twotower.serving.index.exact import ExactIndex

TUNED_KS = (100, 200, 500, 1_000, 2_000, 5_000, 10_000)
# A tuned setting has to reach the wanted recall on queries it was not tuned on too.
MARGIN = 0.2


def num_leaves(size: int) -> int:
    """The square root of n, and more above 100,000 rows (ScaNN's rule of thumb, docs/algorithms.md)."""
    return max(1, round(math.sqrt(size) * math.pow(max(1.0, size / 100_000), 0.25)))


def tuned_ks(size: int) -> tuple[int, ...]:
    """The k for which a search over n rows is tuned: at least 100 and at most a tenth of the rows."""
    return tuple(k for k in TUNED_KS if k == TUNED_KS[0] or k * 10 <= size)


@dataclass(frozen=True)
class Probing:
    """Leaves to look into, by k.

    Attributes:
      ks: the tuned k, increasing.
      leaves: for each of them, the leaves that reach the wanted recall, and hold k rows whichever they are;
        non-decreasing.
      least: leaves that hold the smallest tuned k, whichever they are.
      all_leaves: how many there are.
    """

    ks: tuple[int, ...]
    leaves: tuple[int, ...]
    least: int
    all_leaves: int

    def leaves_for(self, k: tf.Tensor) -> tf.Tensor:
        """Leaves to search for k rows, [] int32; above the largest tuned k every leaf is searched."""
        return tf.gather([*self.leaves, self.all_leaves], tf.searchsorted(list(self.ks), k[tf.newaxis])[0])


def tune(leaf_sizes: npt.NDArray[np.int64], recall_of: Callable[[int, int], float], wanted: float) -> Probing:
    """Finds the fewest leaves that reach a recall, for each of the tuned k.

    Args:
      leaf_sizes: [leaves] rows in each leaf.
      recall_of: (k, leaves searched) -> recall@k, rising with the number of leaves; asked for as many leaves as hold
        k rows.
      wanted: recall in (0, 1].
    """
    ks = tuned_ks(int(leaf_sizes.sum()))
    held = np.cumsum(np.sort(leaf_sizes))
    # The smallest k may be larger than the catalogue.
    enough = [min(int(np.searchsorted(held, k)) + 1, len(held)) for k in ks]
    leaves: list[int] = []
    for k, least in zip(ks, enough, strict=True):
        first = max([least, *leaves])
        rungs = [first, *(n for n in ladder(len(held)) if n > first)]
        leaves.append(fewest(rungs, lambda n, k=k: recall_of(k, n), wanted))  # type: ignore[misc]
    return Probing(ks, tuple(leaves), enough[0], len(held))


def ladder(limit: int) -> list[int]:
    """Whole numbers from 1 to ``limit``, each about a fifth larger than the last."""
    rungs = [1]
    while rungs[-1] < limit:
        rungs.append(min(limit, max(rungs[-1] + 1, round(rungs[-1] * 1.2))))
    return rungs


def fewest(rungs: Sequence[int], recall_of: Callable[[int], float], wanted: float) -> int:
    """The first rung whose recall is the wanted one and a margin above it; the last rung if none is."""
    target = wanted + MARGIN * (1 - wanted)
    low, high = 0, len(rungs) - 1
    while low < high:
        middle = (low + high) // 2
        if recall_of(rungs[middle]) >= target:
            high = middle
        else:
            low = middle + 1
    return rungs[low]


def true_rows(
    embeddings: FloatMatrix, queries: FloatMatrix, precision: Precision = "float32"
) -> dict[int, npt.NDArray[np.int32]]:
    """For each tuned k, the rows [m, k] with the largest dot products, of the embeddings as they are stored."""
    ks = tuned_ks(len(embeddings))
    rows = ExactIndex(embeddings, precision).search(queries, ks[-1])[1].numpy()
    return {k: rows[:, :k] for k in ks}


def recall(found: npt.NDArray[np.integer[Any]], truth: npt.NDArray[np.integer[Any]]) -> float:
    """Mean share of the true rows that were found; ``found`` [b, any], ``truth`` [b, k], distinct rows in a list."""
    return float(np.mean([np.isin(want, got).mean() for got, want in zip(found, truth, strict=True)]))


def typical_queries(embeddings: FloatMatrix, count: int, seed: int) -> FloatMatrix:
    """Stand-ins for user embeddings: one half rows of the matrix, one half the means of two rows.

    They resemble users with one and with two interests. Real query embeddings tune better.
    """
    rng = np.random.default_rng(seed)
    pairs = embeddings[rng.integers(len(embeddings), size=(count, 2))]
    pairs[: count // 2, 1] = pairs[: count // 2, 0]
    return np.asarray(pairs.mean(axis=1), np.float32)
