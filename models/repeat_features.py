"""User-item features computed in the graph from the request's own history: how often, how long ago, how regularly.

Training and serving run this same code, so that they cannot differ. Anderson et al. 2014
(doi:10.1145/2566486.2568018) show that recency and frequency drive repeat consumption. All counts are of
baskets, events of one user at one time, not of lines.

The item itself and each of its groups are kinds of keys, and all kinds are counted together: a graph of few large
operations answers one request several times as fast as one of many small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import tensorflow as tf

# Half-lives, in days, of the decayed counts.
HALF_LIVES = (5, 14, 40, 120)
# What an absent item answers for "days since" and for "baskets since": longer than any history is worth telling apart.
NEVER = 1_000.0

RECENT = tuple(f"recent_{half_life}" for half_life in HALF_LIVES)
PARTS = tuple(f"part_{half_life}" for half_life in HALF_LIVES)
ITEM_FEATURES = (
    "count", *(name for pair in zip(RECENT, PARTS, strict=True) for name in pair),
    "last", "first", "gap", "spread", "latest_gap", "due", "trips", "share", "year_ago",
)  # fmt: skip
# What is kept of a group; shares and cycles of groups brought nothing in benchmarks/README.md, "Ranking".
GROUP_FEATURES = ("count", *RECENT, "last", "first", "gap")
USER_FEATURES = ("count", *RECENT, "last", "first", "distinct", "lines", "variety")
# What stands for a key that the history does not have, where it is not 0.
MISSING = {"last": NEVER, "first": NEVER, "trips": NEVER}
# Counts and days, which are log1p.
LOGS = ("count", *RECENT, "last", "first", "gap", "latest_gap", "trips", "year_ago", "distinct")

Named: TypeAlias = dict[str, tf.Tensor]


def names(groups: Sequence[str]) -> list[str]:
    """The features in their order: ``item_*`` of the item itself, ``<group>_*`` of each group, and ``user_*``."""
    of_groups = [f"{group}_{name}" for group in groups for name in (*GROUP_FEATURES, "own", "distinct")]
    return [*(f"item_{name}" for name in ITEM_FEATURES), *of_groups, *(f"user_{name}" for name in USER_FEATURES)]


def repeat_features(
    items: tf.Tensor, ages: tf.Tensor, candidates: tf.Tensor, n_items: tf.Tensor | int, groups: Sequence[tf.Tensor]
) -> tf.Tensor:
    """What the history says of each candidate, of its groups, and of the user; counts and days are log1p.

    ``count`` of baskets; ``recent_<half-life>``, the same decayed, and ``part_<half-life>``, that as a part of all
    of the user's baskets; days since the ``last`` and the ``first``; mean days between two, ``gap``, their standard
    deviation over the mean, ``spread``, and the ``latest_gap``; ``due``, days since the last over the mean gap;
    ``trips``, the user's baskets since the last; ``share`` of the user's baskets since the first; and
    ``year_ago``, baskets 10 to 13 months ago. Of a group also the item's ``own`` part of its baskets, and how many
    ``distinct`` items of it there are. Those of the user are alike for all candidates.

    Args:
        items: [b, h] catalogue rows of the history, most recent first; ``n_items`` = padding or unknown.
        ages: [b, h] float32, days before the request.
        candidates: [b, n] catalogue rows; ``n_items`` = padding.
        n_items: size of the catalogue.
        groups: ways to put items together, by category, brand, and so on: [n_items + 1] int32 group of each item. An
            unknown item's is the last and the highest, and means unknown, which is no group to share.

    Returns:
        [b, n, width] float32, as ``names`` says.
    """
    shape = tf.shape(candidates)
    events = _Events.read(items, ages, n_items)
    user = _user(events)
    keys = _Keys.of(events, n_items, groups)
    found = _of_keys(events, keys, user)
    places = keys.places(candidates, groups)
    item = tf.gather(_table(found, (*ITEM_FEATURES, "baskets")), places[:, :, 0])
    parts = [item[:, :, :-1]]
    if groups:
        of_groups = tf.gather(_table(found, (*GROUP_FEATURES, "baskets", "distinct")), places[:, :, 1:])
        own = tf.math.divide_no_nan(item[:, :, tf.newaxis, -1:], of_groups[..., -2:-1])
        of_groups = tf.concat([of_groups[..., : len(GROUP_FEATURES)], own, of_groups[..., -1:]], axis=3)
        parts.append(tf.reshape(of_groups, [shape[0], shape[1], len(groups) * of_groups.shape[3]]))
    asked = tf.math.log1p(tf.stack([user[name] for name in USER_FEATURES[:-1]], axis=1))
    # A user who buys little twice has about as many distinct items as lines.
    variety = tf.math.divide_no_nan(user["distinct"], user["lines"])
    asked = tf.concat([asked, variety[:, tf.newaxis]], axis=1)
    parts.append(tf.broadcast_to(asked[:, tf.newaxis], [shape[0], shape[1], len(USER_FEATURES)]))
    return tf.concat(parts, axis=2)


@dataclass(frozen=True)
class _Events:
    """The known events of b histories, flat, each row's most recent first: [events] each.

    ``baskets`` numbers each row's baskets from the most recent, 0; ``opens`` is 1 for a basket's first event, and
    ``new`` for an item's most recent one, else 0. ``decayed`` [events, half-lives] is what is left of an event since
    the row's ``last`` [b], and ``left`` [b, half-lives] of that one: of an event long ago alone, nothing would be left.
    """

    items: tf.Tensor
    rows: tf.Tensor
    ages: tf.Tensor
    last: tf.Tensor
    decayed: tf.Tensor
    left: tf.Tensor
    baskets: tf.Tensor
    opens: tf.Tensor
    new: tf.Tensor
    batch: tf.Tensor

    @classmethod
    def read(cls, items: tf.Tensor, ages: tf.Tensor, n_items: tf.Tensor | int) -> _Events:
        batch = tf.shape(items)[0]
        places = tf.where(items < n_items)
        items, ages, rows = tf.gather_nd(items, places), tf.gather_nd(ages, places), tf.cast(places[:, 0], tf.int32)
        opens = tf.cast(_changes(rows) | _changes(ages), tf.int32)
        number = tf.cumsum(opens)
        baskets = number - tf.gather(tf.math.unsorted_segment_min(number, rows, batch), rows)
        found, pair = tf.unique(places[:, 0] * tf.cast(n_items, tf.int64) + tf.cast(items, tf.int64))
        firsts = tf.math.unsorted_segment_min(tf.range(tf.size(pair)), pair, tf.size(found))
        new = tf.scatter_nd(firsts[:, tf.newaxis], tf.ones_like(firsts, tf.float32), tf.shape(pair))
        last = tf.math.unsorted_segment_min(ages, rows, batch)
        decayed, opens = _decayed(ages - tf.gather(last, rows)), tf.cast(opens, tf.float32)
        return cls(items, rows, ages, last, decayed, _decayed(last), baskets, opens, new, batch)


@dataclass(frozen=True)
class _Keys:
    """The events by what they are of, for every kind of key: the item itself, and each of its groups.

    Attributes:
        known: [keys + 1] int64, ascending; the last is none.
        order: [kinds * events] the events key by key, each key's most recent first.
        number: [kinds * events] which key each of them is of.
        sizes: [kinds] int64, how many keys a row can have; the highest means unknown.
        offsets: [kinds] int64, the first key of each kind.
    """

    known: tf.Tensor
    order: tf.Tensor
    number: tf.Tensor
    sizes: tf.Tensor
    offsets: tf.Tensor

    @classmethod
    def of(cls, events: _Events, n_items: tf.Tensor | int, groups: Sequence[tf.Tensor]) -> _Keys:
        kinds = _kinds(events.items, groups, axis=0)
        sizes = tf.cast(tf.stack([n_items, *(group[-1] for group in groups)]) + 1, tf.int64)
        offsets = tf.cumsum(sizes * tf.cast(events.batch, tf.int64), exclusive=True)
        keys = offsets[:, tf.newaxis] + tf.cast(events.rows, tf.int64) * sizes[:, tf.newaxis] + kinds
        order = tf.argsort(keys, axis=1, stable=True)
        keys = tf.reshape(tf.gather(keys, order, batch_dims=1), [-1])
        starts = _changes(keys)
        known = tf.concat([tf.boolean_mask(keys, starts), [tf.int64.max]], axis=0)
        return cls(known, tf.reshape(order, [-1]), tf.cumsum(tf.cast(starts, tf.int32)) - 1, sizes, offsets)

    def places(self, candidates: tf.Tensor, groups: Sequence[tf.Tensor]) -> tf.Tensor:
        """[b, n, kinds] the number of each candidate's keys; of one that no event is of, the number of all."""
        wanted = _kinds(candidates, groups, axis=2)
        rows = tf.range(tf.shape(candidates, tf.int64)[0])[:, tf.newaxis, tf.newaxis]
        asked = tf.where(wanted < self.sizes - 1, self.offsets + rows * self.sizes + wanted, -1)
        place = tf.reshape(tf.searchsorted(self.known, tf.reshape(asked, [-1])), tf.shape(asked))
        return tf.where(tf.gather(self.known, place) == asked, place, tf.size(self.known) - 1)


def _kinds(rows: tf.Tensor, groups: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    """Catalogue rows and their groups, int64, stacked along a new axis."""
    return tf.cast(tf.stack([rows, *(tf.gather(group, rows) for group in groups)], axis=axis), tf.int64)


def _user(events: _Events) -> Named:
    """[b] each, not yet log1p; and ``decayed`` [b, half-lives], the baskets since the last one."""
    columns = [events.opens[:, tf.newaxis] * events.decayed, events.opens[:, tf.newaxis]]
    columns += [events.new[:, tf.newaxis], tf.ones_like(events.new)[:, tf.newaxis]]
    sums = tf.math.unsorted_segment_sum(tf.concat(columns, axis=1), events.rows, events.batch)
    decayed = sums[:, : len(HALF_LIVES)]
    found = [decayed * events.left, sums[:, len(HALF_LIVES) :]]
    user = dict(zip((*RECENT, "count", "distinct", "lines"), tf.unstack(tf.concat(found, 1), axis=1), strict=True))
    user["decayed"] = decayed
    some = user["count"] > 0
    user["last"] = tf.where(some, events.last, NEVER)
    user["first"] = tf.where(some, tf.math.unsorted_segment_max(events.ages, events.rows, events.batch), NEVER)
    return user


def _of_keys(events: _Events, keys: _Keys, user: Named) -> Named:
    """[keys] each, not yet log1p: the features of every key, and the number of its ``baskets``."""
    n_keys = tf.size(keys.known) - 1
    distinct = tf.math.unsorted_segment_sum(tf.gather(events.new, keys.order), keys.number, n_keys)
    # Lines of one basket count once.
    once = tf.where(_changes(keys.number) | _changes(tf.gather(events.baskets, keys.order)))[:, 0]
    order, number = tf.gather(keys.order, once), tf.gather(keys.number, once)
    ages, baskets = tf.gather(events.ages, order), tf.cast(tf.gather(events.baskets, order), tf.float32)
    starts = _changes(number)
    latest = tf.where(starts)[:, 0]
    earliest = tf.concat([latest[1:], tf.shape(number, tf.int64)], axis=0)[: tf.size(latest)] - 1

    last, first = tf.gather(ages, latest), tf.gather(ages, earliest)
    count = tf.cast(earliest - latest + 1, tf.float32)
    mean = tf.math.divide_no_nan(first - last, count - 1.0)

    gaps = tf.where(starts, 0.0, ages - tf.concat([ages[:1], ages[:-1]], axis=0))
    # Squares of what is away from the mean: those of the gaps less the mean's would leave little but rounding.
    away = tf.where(starts, 0.0, gaps - tf.gather(mean, number))
    latest_gaps = tf.where(starts, tf.concat([gaps[1:], gaps[:1]], axis=0), 0.0)
    year_ago = tf.cast((ages > 304) & (ages <= 395), tf.float32)
    columns = tf.stack([away * away, latest_gaps, year_ago], axis=1)
    sums = tf.math.unsorted_segment_sum(tf.concat([columns, tf.gather(events.decayed, order)], axis=1), number, n_keys)
    squares, latest_gap, year_ago = tf.unstack(sums[:, :3], axis=1)
    spread = tf.math.divide_no_nan(tf.sqrt(tf.math.divide_no_nan(squares, count - 1.0)), mean)
    rows = tf.gather(events.rows, tf.gather(order, latest))
    recent = tf.unstack(sums[:, 3:] * tf.gather(events.left, rows), axis=1)
    parts = tf.math.divide_no_nan(sums[:, 3:], tf.gather(user["decayed"], rows))
    return {
        "baskets": count,
        "count": count,
        **dict(zip(RECENT, recent, strict=True)),
        **dict(zip(PARTS, tf.unstack(parts, axis=1), strict=True)),
        "last": last,
        "first": first,
        "gap": mean,
        "spread": tf.minimum(spread, 5.0),
        "latest_gap": latest_gap,
        "due": tf.minimum(tf.math.divide_no_nan(last, mean), 10.0),
        "trips": tf.gather(baskets, latest),
        "share": tf.math.divide_no_nan(count, tf.gather(baskets, earliest) + 1.0),
        "year_ago": year_ago,
        "distinct": distinct,
    }


def _table(found: Named, columns: Sequence[str]) -> tf.Tensor:
    """[keys + 1, columns] of what was found, counts and days as log1p; the last row is that of a key without events."""
    logs = np.array([name in LOGS for name in columns])
    missing = np.array([MISSING.get(name, 0.0) for name in columns], np.float32)
    table = tf.concat([tf.stack([found[name] for name in columns], axis=1), missing[np.newaxis]], axis=0)
    return tf.where(logs, tf.math.log1p(table), table)


def _changes(values: tf.Tensor) -> tf.Tensor:
    """[n] whether each value differs from the one before; the first does."""
    return tf.concat([tf.ones_like(values[:1], tf.bool), values[1:] != values[:-1]], axis=0)


def _decayed(ages: tf.Tensor) -> tf.Tensor:
    """[n, half-lives] what is left after ages [n]."""
    return tf.pow(2.0, -ages[:, tf.newaxis] / tf.constant(HALF_LIVES, tf.float32))
