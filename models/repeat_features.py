"""User-item features computed in the graph from the request's own history: how often, how long ago, how regularly.

Training and serving run this same code, so that they cannot differ. Anderson et al. 2014
(doi:10.1145/2566486.2568018) show that recency and frequency drive repeat consumption. All counts are of
baskets, events of one user at one time, not of lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import tensorflow as tf

# Half-lives, in days, of the decayed counts.
HALF_LIVES = (5, 14, 40, 120)
# What an absent item answers for "days since" and for "baskets since": longer than any history is worth telling apart.
NEVER = 1_000.0

# What is kept of a group; shares and cycles of groups brought nothing in benchmarks/README.md, "Ranking".
GROUP_FEATURES = ("count", *(f"recent_{half_life}" for half_life in HALF_LIVES), "last", "first", "gap")

Named: TypeAlias = dict[str, tf.Tensor]


@dataclass(frozen=True)
class Group:
    """A way to put items together: by category, brand, and so on.

    Attributes:
        of_item: [n_items + 1] int32 group of each item; the last place is an unknown item's.
        size: number of groups; ``size - 1`` means unknown, which is no group to share.
    """

    of_item: tf.Tensor
    size: int


@dataclass(frozen=True)
class _Events:
    """The known events of b histories, flat, each row's most recent first: [events] each.

    ``baskets`` numbers each row's baskets from the most recent, 0.
    """

    items: tf.Tensor
    rows: tf.Tensor
    ages: tf.Tensor
    baskets: tf.Tensor
    batch: tf.Tensor

    @classmethod
    def read(cls, items: tf.Tensor, ages: tf.Tensor, n_items: int) -> _Events:
        known = tf.reshape(items < n_items, [-1])
        batch, length = tf.shape(items)[0], tf.shape(items)[1]
        items, ages, rows = (
            tf.boolean_mask(tf.reshape(values, [-1]), known)
            for values in (items, ages, tf.repeat(tf.range(batch), length))
        )
        number = tf.cumsum(tf.cast(_changes(rows) | _changes(ages), tf.int32))
        first = tf.math.unsorted_segment_min(number, rows, batch)
        return cls(items, rows, ages, number - tf.gather(first, rows), batch)

    def where(self, keep: tf.Tensor) -> _Events:
        items, rows, ages, baskets = (
            tf.boolean_mask(values, keep) for values in (self.items, self.rows, self.ages, self.baskets)
        )
        return _Events(items, rows, ages, baskets, self.batch)


def repeat_features(
    items: tf.Tensor, ages: tf.Tensor, candidates: tf.Tensor, n_items: int, groups: Mapping[str, Group]
) -> Named:
    """What the history says of each candidate, of its groups, and of the user.

    Args:
        items: [b, h] catalogue rows of the history, most recent first; ``n_items`` = padding or unknown.
        ages: [b, h] float32, days before the request.
        candidates: [b, n] catalogue rows; ``n_items`` = padding.
        n_items: size of the catalogue.
        groups: by name.

    Returns:
        [b, n] float32 features by name: ``item_*`` of the item itself, ``<group>_*`` of each of its groups, and
        ``user_*``, which are alike for all candidates. Counts and days are log1p.
    """
    events = _Events.read(items, ages, n_items)
    user = _user(events)
    found, item_count = _counted(events, events.items, candidates, n_items + 1, user)
    features = {f"item_{name}": values for name, values in found.items()}
    pairs = tf.unique(tf.cast(events.rows, tf.int64) * n_items + tf.cast(events.items, tf.int64))[0]
    distinct_rows, distinct_items = tf.cast(pairs // n_items, tf.int32), tf.cast(pairs % n_items, tf.int32)
    user["distinct"] = tf.math.unsorted_segment_sum(tf.ones_like(pairs, tf.float32), distinct_rows, events.batch)
    for name, group in groups.items():
        keys, wanted = tf.gather(group.of_item, events.items), tf.gather(group.of_item, candidates)
        known = keys < group.size - 1
        found, count = _counted(events.where(known), tf.boolean_mask(keys, known), wanted, group.size, user)
        features |= {f"{name}_{key}": values for key, values in found.items() if key in GROUP_FEATURES}
        features[f"{name}_own"] = tf.math.divide_no_nan(item_count, count)
        keys = tf.gather(group.of_item, distinct_items)
        known = keys < group.size - 1
        distinct = _distinct(
            tf.boolean_mask(distinct_rows, known), tf.boolean_mask(keys, known), wanted, group.size, events.batch
        )
        features[f"{name}_distinct"] = tf.math.log1p(distinct)
    lines = tf.math.unsorted_segment_sum(tf.ones_like(events.ages), events.rows, events.batch)
    asked = {f"user_{name}": tf.math.log1p(values) for name, values in {**user, "lines": lines}.items()}
    # A user who buys little twice has about as many distinct items as lines.
    asked["user_variety"] = tf.math.divide_no_nan(user["distinct"], lines)
    shape = tf.shape(candidates)
    return features | {name: tf.broadcast_to(values[:, tf.newaxis], shape) for name, values in asked.items()}


def _user(events: _Events) -> Named:
    """[b] each, not yet log1p: baskets, the same decayed, and days since the last and the first."""
    once = events.where(_changes(events.rows) | _changes(events.ages))
    some, total = _aggregate(once.rows, once.batch)
    user = {"count": total(tf.ones_like(once.ages))}
    for half_life in HALF_LIVES:
        user[f"recent_{half_life}"] = total(_decayed(once.ages, half_life))
    user["last"] = tf.where(user["count"] > 0, some(tf.math.unsorted_segment_min, once.ages), NEVER)
    user["first"] = tf.where(user["count"] > 0, some(tf.math.unsorted_segment_max, once.ages), NEVER)
    return user


def _counted(events: _Events, keys: tf.Tensor, wanted: tf.Tensor, size: int, user: Named) -> tuple[Named, tf.Tensor]:
    """Features [b, n] of the keys ``wanted`` [b, n] among the events' ``keys``, and the number of their baskets.

    ``count`` of baskets; ``recent_<half-life>``, the same decayed, and ``part_<half-life>``, that as a part of all
    of the user's baskets; days since the ``last`` and the ``first``; mean days between two, ``gap``, their standard
    deviation over the mean, ``spread``, and the ``latest_gap``; ``due``, days since the last over the mean gap;
    ``trips``, the user's baskets since the last; ``share`` of the user's baskets since the first; and
    ``year_ago``, baskets 10 to 13 months ago.
    """
    batch = tf.cast(events.batch, tf.int64)
    flat = tf.cast(keys, tf.int64) + tf.cast(events.rows, tf.int64) * size
    order = tf.argsort(flat, stable=True)
    flat, ages, baskets = (tf.gather(values, order) for values in (flat, events.ages, events.baskets))
    # Lines of one basket count once.
    once = _changes(flat) | _changes(baskets)
    flat, ages, baskets = (tf.boolean_mask(values, once) for values in (flat, ages, baskets))
    starts = _changes(flat)
    # A sentinel keeps the list of keys from being empty.
    known_keys = tf.concat([tf.boolean_mask(flat, starts), [batch * size]], axis=0)
    at = _looked_up(known_keys, wanted, size, batch)
    some, total = _aggregate(tf.cumsum(tf.cast(starts, tf.int32)) - 1, tf.size(known_keys))

    count = total(tf.ones_like(ages))
    last, first = some(tf.math.unsorted_segment_min, ages), some(tf.math.unsorted_segment_max, ages)
    gaps = tf.where(starts, 0.0, ages - tf.concat([ages[:1], ages[:-1]], axis=0))
    mean = tf.math.divide_no_nan(first - last, count - 1.0)
    variance = tf.math.divide_no_nan(total(gaps * gaps), count - 1.0) - mean * mean
    spread = tf.math.divide_no_nan(tf.sqrt(tf.maximum(variance, 0.0)), mean)
    latest_gap = total(tf.where(starts, tf.concat([gaps[1:], gaps[:1]], axis=0), 0.0))
    number = tf.cast(baskets, tf.float32)
    newest, oldest = some(tf.math.unsorted_segment_min, number), some(tf.math.unsorted_segment_max, number)
    year_ago = tf.cast((ages > 304) & (ages <= 395), tf.float32)

    features: Named = {"count": tf.math.log1p(at(count, 0.0))}
    for half_life in HALF_LIVES:
        recent = at(total(_decayed(ages, half_life)), 0.0)
        features[f"recent_{half_life}"] = tf.math.log1p(recent)
        features[f"part_{half_life}"] = tf.math.divide_no_nan(recent, user[f"recent_{half_life}"][:, tf.newaxis])
    features |= {
        "last": tf.math.log1p(at(last, NEVER)),
        "first": tf.math.log1p(at(first, NEVER)),
        "gap": tf.math.log1p(at(mean, 0.0)),
        "spread": at(tf.minimum(spread, 5.0), 0.0),
        "latest_gap": tf.math.log1p(at(latest_gap, 0.0)),
        "due": at(tf.minimum(tf.math.divide_no_nan(last, mean), 10.0), 0.0),
        "trips": tf.math.log1p(at(newest, NEVER)),
        "share": at(tf.math.divide_no_nan(count, oldest + 1.0), 0.0),
        "year_ago": tf.math.log1p(at(total(year_ago), 0.0)),
    }
    return features, at(count, 0.0)


def _distinct(rows: tf.Tensor, keys: tf.Tensor, wanted: tf.Tensor, size: int, batch: tf.Tensor) -> tf.Tensor:
    """[b, n] how many of (row, key) [pairs] have the row's wanted key."""
    batch = tf.cast(batch, tf.int64)
    flat = tf.sort(tf.cast(keys, tf.int64) + tf.cast(rows, tf.int64) * size)
    known_keys, _, counts = tf.unique_with_counts(tf.concat([flat, [batch * size]], axis=0))
    return _looked_up(known_keys, wanted, size, batch)(tf.cast(counts, tf.float32), 0.0)


def _looked_up(
    known_keys: tf.Tensor, wanted: tf.Tensor, size: int, batch: tf.Tensor
) -> Callable[[tf.Tensor, float], tf.Tensor]:
    """Reads values along the sorted ``known_keys`` at each row's ``wanted`` [b, n], or what stands for missing."""
    asked = tf.reshape(tf.cast(wanted, tf.int64) + tf.range(batch)[:, tf.newaxis] * size, [-1])
    place = tf.searchsorted(known_keys, asked)
    found = tf.equal(tf.gather(known_keys, place), asked)

    def at(values: tf.Tensor, missing: float) -> tf.Tensor:
        return tf.reshape(tf.where(found, tf.gather(values, place), missing), tf.shape(wanted))

    return at


def _aggregate(
    segments: tf.Tensor, number: tf.Tensor
) -> tuple[Callable[[Callable[..., tf.Tensor], tf.Tensor], tf.Tensor], Callable[[tf.Tensor], tf.Tensor]]:
    """Any unsorted segment operation over these segments, and the sum."""

    def some(operation: Callable[..., tf.Tensor], values: tf.Tensor) -> tf.Tensor:
        return operation(values, segments, number)

    return some, lambda values: tf.math.unsorted_segment_sum(values, segments, number)


def _changes(values: tf.Tensor) -> tf.Tensor:
    """[n] whether each value differs from the one before; the first does."""
    return tf.concat([tf.ones_like(values[:1], tf.bool), values[1:] != values[:-1]], axis=0)


def _decayed(ages: tf.Tensor, half_life: float) -> tf.Tensor:
    return tf.pow(2.0, -ages / half_life)
