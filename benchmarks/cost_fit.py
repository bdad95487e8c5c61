"""A step's cost as a start and so much for each purchase, user, item and the like: fitted, and how far it is off.

Non-negative least squares of relative errors, so that a shop of 5,000 purchases counts as much as one of 500,000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

# What a shop has so many of.
Drivers = Mapping[str, float]
PRODUCTS: Sequence[str] = ("asked x items", "lists x items")
# What the cost of each step can depend on; the others take as long for any shop. An exact search looks at each item
# for each user or list that asks.
OF_STEP: Mapping[str, Sequence[str]] = {
    "start": (),
    "Ingest": ("purchases", "users", "items"),
    "StatisticsGen": ("purchases", "users", "items"),
    "SchemaGen": (),
    "ExampleValidator": (),
    "Transform": ("purchases", "users", "items"),
    "Trainer.retrieval": ("purchases", "users", "items", "draws"),
    "BuildIndex": ("purchases", "users", "items"),
    "EvaluateRetrieval": ("purchases", "items", "asked", "asked x items"),
    "Trainer.ranking": ("purchases", "items", "lists", "lists x items"),
    "ScoreRanking": ("items", "scored"),
    "Evaluator": (),
    "Compose": ("purchases", "users", "items"),
    "CheckServable": ("purchases", "items", "asked"),
    "Pusher": ("items",),
}


@dataclass(frozen=True)
class Fit:
    """``start`` + the sum of ``each`` x drivers; ``worst``: the largest deviation of a shop from that, as a share."""

    start: float
    each: Drivers
    worst: float

    def at(self, drivers: Drivers) -> float:
        """The cost of a shop."""
        return self.start + sum(cost * drivers[name] for name, cost in self.each.items())


def fit(names: Sequence[str], shops: Sequence[Drivers], costs: Sequence[float]) -> Fit:
    """Fit the costs of the shops on their drivers ``names``.

    Raises:
        ValueError: there are fewer shops than numbers to find.
    """
    if len(shops) <= len(names):
        raise ValueError(f"found {len(shops)} shops, expected more than the {len(names)} drivers {', '.join(names)}")
    table = np.array([[1.0, *(shop[name] for name in names)] for shop in shops])
    relative = table / np.asarray(costs)[:, np.newaxis]
    scale = np.maximum(relative.max(axis=0), np.finfo(float).tiny)
    found, _ = nnls(relative / scale, np.ones(len(shops)))
    # A share that no shop would notice is the solver's rounding.
    found = np.where(found < 1e-9, 0.0, found) / scale
    worst = float(np.abs(relative @ found - 1).max())
    return Fit(float(found[0]), dict(zip(names, found[1:].tolist(), strict=True)), worst)


def bend(purchases: Sequence[float], costs: Sequence[float]) -> float:
    """How much dearer a purchase is from the second to the third shop than from the first to the second, as a share.

    The start falls out of it: 0 is linear.
    """
    (first, second, third), (low, middle, high) = purchases, costs
    before, after = (middle - low) / (second - first), (high - middle) / (third - second)
    return after / before - 1
