"""Bootstrap percentile intervals of means (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twotower.models.metrics import Float64

# Drawn at a time: 16 MiB of indices.
BLOCK = 1 << 21


class Interval(NamedTuple):
    """Ends of a 95% interval."""

    low: float
    high: float


def mean_interval(values: Float64, resamples: int, seed: int) -> Interval:
    """The 2.5th and 97.5th percentile of the mean of ``values`` [users], users drawn again with replacement.

    Args:
        values: one a user. For two models on the same users give the differences: the interval is then paired.
        resamples: how many times to draw.
        seed: of the draws.

    Raises:
        ValueError: there are no values, or one is not finite.
    """
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"values: found {len(values)}, expected at least one and all finite")
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // len(values))
    means = np.concatenate(
        [
            values[rng.integers(len(values), size=(min(block, resamples - start), len(values)))].mean(axis=1)
            for start in range(0, resamples, block)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(low), float(high))
