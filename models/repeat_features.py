"""User-item features computed in the graph from the request's own history: how often, how long ago, how regularly.

Training and serving run this same code, so that they cannot differ. Anderson et al. 2014
(doi:10.1145/2566486.2568018) show that recency and frequency drive repeat consumption.
"""

from __future__ import annotations

import tensorflow as tf

# Half-lives, in days, of the decayed counts.
HALF_LIVES = (7.0, 30.0, 120.0)
# What an absent item answers for "days since": longer than any history here is worth telling apart.
NEVER_DAYS = 1_000.0
ITEM_WIDTH = 5 + len(HALF_LIVES)
GROUP_WIDTH = 3


def _grouped(
    keys: tf.Tensor, valid: tf.Tensor, wanted: tf.Tensor, size: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Where each wanted key's group is among the history's keys of the same row.

    Args:
        keys: [b, h] int32 in [0, size); valid: [b, h] whether the event counts.
        wanted: [b, n] int32 in [0, size).
        size: number of keys.

    Returns:
        segments [events] of the valid events, mask of them [b * h], the number of segments, the group [b * n] of
        each wanted key, and whether it has one [b * n].
    """
    batch = tf.cast(tf.shape(keys)[0], tf.int64)
    row = tf.range(batch)[:, tf.newaxis] * size
    flat = tf.reshape(tf.cast(keys, tf.int64) + row, [-1])
    mask = tf.reshape(valid, [-1])
    events = tf.boolean_mask(flat, mask)
    # A sentinel keeps the sorted list from being empty.
    sorted_keys = tf.sort(tf.unique(tf.concat([events, [batch * size]], axis=0))[0])
    segments = tf.searchsorted(sorted_keys, events)
    asked = tf.reshape(tf.cast(wanted, tf.int64) + row, [-1])
    group = tf.searchsorted(sorted_keys, asked)
    total = tf.size(sorted_keys)
    group = tf.minimum(group, total - 1)
    return segments, mask, total, group, tf.equal(tf.gather(sorted_keys, group), asked)


def item_features(items: tf.Tensor, ages: tf.Tensor, candidates: tf.Tensor, n_items: int) -> tf.Tensor:
    """What the history says of each candidate itself.

    Args:
        items: [b, h] catalogue rows of the history; ``n_items`` = padding or unknown.
        ages: [b, h] float32, days before the request.
        candidates: [b, n] catalogue rows; ``n_items`` = padding.
        n_items: size of the catalogue.

    Returns:
        [b, n, ITEM_WIDTH] float32: log counts (all, then decayed by each half-life), log days since the last and
        since the first event, log mean gap, and days since the last over the mean gap (1 = due).
    """
    segments, mask, total, group, known = _grouped(items, items < n_items, candidates, n_items + 1)
    ages = tf.boolean_mask(tf.reshape(ages, [-1]), mask)

    def per_candidate(values: tf.Tensor, missing: float) -> tf.Tensor:
        return tf.reshape(tf.where(known, tf.gather(values, group), missing), tf.shape(candidates))

    count = tf.math.unsorted_segment_sum(tf.ones_like(ages), segments, total)
    last = tf.math.unsorted_segment_min(ages, segments, total)
    first = tf.math.unsorted_segment_max(ages, segments, total)
    # Distinct moments are not known here: several lines of one basket count as several events.
    gap = tf.math.divide_no_nan(first - last, count - 1.0)
    due = tf.minimum(tf.math.divide_no_nan(last, gap), 10.0)
    decayed = [
        per_candidate(tf.math.unsorted_segment_sum(tf.pow(2.0, -ages / half_life), segments, total), 0.0)
        for half_life in HALF_LIVES
    ]
    return tf.stack(
        [
            tf.math.log1p(per_candidate(count, 0.0)),
            *(tf.math.log1p(value) for value in decayed),
            tf.math.log1p(per_candidate(last, NEVER_DAYS)),
            tf.math.log1p(per_candidate(first, NEVER_DAYS)),
            tf.math.log1p(per_candidate(gap, 0.0)),
            per_candidate(due, 0.0),
        ],
        axis=2,
    )


def group_features(
    history_groups: tf.Tensor, valid: tf.Tensor, ages: tf.Tensor, candidate_groups: tf.Tensor, size: int
) -> tf.Tensor:
    """What the history says of each candidate's group: its category, brand, department, and so on.

    Args:
        history_groups: [b, h] the events' groups; valid: [b, h]; ages: [b, h] days.
        candidate_groups: [b, n].
        size: number of groups.

    Returns:
        [b, n, GROUP_WIDTH] float32: log count, log count decayed over 30 days, share of the history's events.
    """
    segments, mask, total, group, known = _grouped(history_groups, valid, candidate_groups, size)
    ages = tf.boolean_mask(tf.reshape(ages, [-1]), mask)

    def per_candidate(values: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.where(known, tf.gather(values, group), 0.0), tf.shape(candidate_groups))

    count = per_candidate(tf.math.unsorted_segment_sum(tf.ones_like(ages), segments, total))
    recent = per_candidate(tf.math.unsorted_segment_sum(tf.pow(2.0, -ages / 30.0), segments, total))
    events = tf.reduce_sum(tf.cast(valid, tf.float32), axis=1, keepdims=True)
    return tf.stack([tf.math.log1p(count), tf.math.log1p(recent), tf.math.divide_no_nan(count, events)], axis=2)
