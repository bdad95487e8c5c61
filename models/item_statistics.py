"""What a shop knows of its items at a moment: how many buy them, lately, again, for the first time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from twotower.features.timelines import Timelines
from twotower.models.queries import DAY

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

# Windows, in days, of the recent buyers.
RECENT_DAYS = (7, 14, 30, 90)
# Owners of an item from before the last days by HAZARD_DAYS may buy it again within them.
HAZARD_DAYS = 30
NEVER_DAYS = 1_000


def item_statistics(
    history: Timelines, at: int, n_items: int, groups: Mapping[str, npt.NDArray[np.int32]]
) -> dict[str, Float32]:
    """What was known of each item just before the time ``at``: [n_items + 1] by name; the last is an unknown item.

    ``buyers`` in all, of the last days by ``RECENT_DAYS`` and in the month after this moment a year ago; ``new``
    buyers, who had not bought it before; ``trend``, recent buyers over those of a longer time; ``again``, the share
    of buyers who bought again; ``hazard``, the share of earlier buyers who bought it in the last month; ``cycle``,
    mean log days between two purchases of a user; log days since the first sale, ``age``, and the last, ``idle``;
    and for each group its sales of the last month and the item's part of them. Counts are log1p.

    Args:
        history: all that is known; nothing at or after ``at`` is read.
        at: unix seconds.
        n_items: size of the catalogue.
        groups: [n_items + 1] group of each item, by the group's name.
    """
    before = history.before(at)
    known = before.items < n_items
    users, items, times = before.users[known], before.items[known].astype(np.int64), before.times[known]
    first = before.first_purchases()[known]
    age = (at - times) / DAY

    def count(rows: Int64) -> Float64:
        return np.bincount(rows, minlength=n_items + 1).astype(np.float64)

    def pairs(mask: Bool) -> Int64:
        return np.unique(users[mask] * (n_items + 1) + items[mask])

    def buyers(mask: Bool) -> Float64:
        return count(pairs(mask) % (n_items + 1))

    everyone = buyers(np.ones(len(users), bool))
    found = {"buyers": np.log1p(everyone), "again": _rate(buyers(~first), everyone, 2)}
    for days in RECENT_DAYS:
        found[f"buyers_{days}"] = np.log1p(buyers(age <= days))
        found[f"new_{days}"] = np.log1p(buyers(first & (age <= days)))
    found["trend"] = found["buyers_14"] - found["buyers_90"]
    owned, bought = pairs(age > HAZARD_DAYS), pairs(age <= HAZARD_DAYS)
    again = np.isin(bought, owned)
    found["hazard"] = _rate(count(bought[again] % (n_items + 1)), count(owned % (n_items + 1)), 5)
    found["cycle"] = _cycle(users, items, times, n_items)
    oldest, newest = np.full(n_items + 1, NEVER_DAYS, np.float64), np.full(n_items + 1, NEVER_DAYS, np.float64)
    order = np.argsort(age)
    oldest[items[order]] = age[order]
    newest[items[order[::-1]]] = age[order[::-1]]
    found["age"], found["idle"] = np.log1p(oldest), np.log1p(newest)
    coming = np.log1p(buyers((age > 334) & (age <= 365)))
    found["year_ago"], found["season"] = coming, coming - np.log1p(buyers((age > 365) & (age <= 396)))
    for name, of_item in groups.items():
        sold = np.bincount(of_item[items[age <= 30]], minlength=int(of_item.max(initial=0)) + 1)
        found[f"{name}_sold"] = np.log1p(sold)[of_item]
        found[f"{name}_part"] = found["buyers_30"] - found[f"{name}_sold"]
    return {name: values.astype(np.float32) for name, values in found.items()}


def _rate(some: Float64, of: Float64, pseudo: int) -> Float64:
    """``some / of``; pseudo-counts at the average rate keep rarely bought items from looking certain."""
    average = some.sum() / max(1.0, of.sum())
    return np.asarray((some + pseudo * average) / (of + pseudo))


def _cycle(users: Int64, items: Int64, times: Int64, n_items: int) -> Float64:
    order = np.lexsort((times, items, users))
    users, items, times = users[order], items[order], times[order]
    again = (users[1:] == users[:-1]) & (items[1:] == items[:-1]) & (times[1:] > times[:-1])
    gaps = np.log1p(np.diff(times)[again] / DAY)
    total = np.bincount(items[1:][again], weights=gaps, minlength=n_items + 1)
    counted = np.bincount(items[1:][again], minlength=n_items + 1)
    average = gaps.mean() if len(gaps) else 0.0
    return np.asarray((total + 3 * average) / (counted + 3))
