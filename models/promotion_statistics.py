"""What a shop knows of its promotions at a moment: those that run, those that are planned, and those that were."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from twotower.features.promotions import Promotions
from twotower.features.timelines import Float32
from twotower.models.queries import DAY

Float64 = npt.NDArray[np.float64]

# Days before the moment whose promotions are looked at beside those of all time.
BEFORE_DAYS = 28


def promotion_statistics(
    promotions: Promotions, at: int, n_items: int, known_days: int, horizon_days: int
) -> dict[str, Float32]:
    """What was known of each item's promotions at the time ``at``: [n_items + 1] by name; the last is unknown.

    For each strength what runs ``now``; its mean over the horizon ``ahead`` and its ``peak`` there; its mean
    over the last days ``before``, and over all time since the first promotion, ``usual``. Promotions of one item
    at one time add up.

    Args:
        promotions: all there are; those that start later than ``known_days`` after ``at`` are not read.
        at: unix seconds.
        n_items: size of the catalogue.
        known_days: how long before its start a promotion is known.
        horizon_days: how far ahead to look.
    """
    known = (promotions.starts <= at + known_days * DAY) & (promotions.items < n_items)
    items, starts, ends = (values[known] for values in (promotions.items, promotions.starts, promotions.ends))
    began = int(starts.min(initial=at))
    windows = {
        "ahead": (at, at + horizon_days * DAY),
        "before": (at - BEFORE_DAYS * DAY, at),
        "usual": (began, at),
    }
    found: dict[str, Float64] = {}
    for name, strengths in promotions.strengths.items():
        strength = strengths[known].astype(np.float64)
        runs = (starts <= at) & (at < ends)
        found[f"{name}_now"] = np.bincount(items[runs], strength[runs], n_items + 1).astype(np.float64)
        for window, (start, end) in windows.items():
            seconds = np.maximum(np.minimum(ends, end) - np.maximum(starts, start), 0)
            total = np.bincount(items, strength * seconds, n_items + 1)
            found[f"{name}_{window}"] = total / max(end - start, 1)
        peak = np.zeros(n_items + 1)
        ahead = (starts < windows["ahead"][1]) & (ends > at)
        np.maximum.at(peak, items[ahead], strength[ahead])
        found[f"{name}_peak"] = peak
    return {name: values.astype(np.float32) for name, values in found.items()}
