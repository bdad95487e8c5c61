"""The positives of retrieval training: which events, how often each is drawn, and the batches they come in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.model_choices import TwoTower
from twotower.features.spec import Spec
from twotower.models.queries import DAY, Queries
from twotower.models.tables import Users

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

# Draws spread evenly over the catalogue, as a share of all draws, in the items' prior.
PRIOR_SMOOTHING = 0.1


@dataclass(frozen=True)
class TrainingEvents:
    """The positives of retrieval training: rows into the training users' timelines, and how often each is drawn.

    By default a user and an item are one positive, however often they met; what is recent is drawn more often, so
    that the towers learn what is bought now.

    Attributes:
        events: [events] rows of the timelines.
        cumulative: [events] running sum of the events' shares of the draws; ends at 1.
        item_share: [items] each item's share of the draws: the sampling probability of the logQ correction.
        prior_share: [items] the same under the prior's half-life.
    """

    events: Int64
    cumulative: Float64
    item_share: Float64
    prior_share: Float64

    @classmethod
    def choose(cls, spec: Spec, train: Users, n_items: int) -> TrainingEvents:
        """Every event with a known item, weighted by 0.5^(age / half-life) and as ``event_weight`` says.

        Raises:
            ValueError: no event has a known item.
        """
        choice = two_tower(spec)
        timelines = train.history
        events = np.flatnonzero(timelines.items < n_items)
        if not len(events):
            raise ValueError("retrieval training needs at least one event with an item of the catalogue, found none")
        items = timelines.items[events]
        times = timelines.times[events]
        # Relative to the newest event, so that old data under a short half-life do not all round to nothing.
        ages = (times.max() - times) / DAY
        pairs = timelines.users[events] * n_items + items
        _, pair, repeats = np.unique(pairs, return_inverse=True, return_counts=True)
        once = 1 / repeats[pair]
        if choice.event_weight == "pair":
            each = once
        elif choice.event_weight == "event":
            each = np.ones(len(events))
        else:
            # A wholesaler's thousand pieces are not a thousand purchases.
            each = np.log1p(np.maximum(timelines.quantities[events], 0.0)).astype(np.float64)
        weights = _shares(each, ages, choice.recency_half_life_days)

        def by_item(shares: Float64) -> Float64:
            return np.bincount(items, weights=shares, minlength=n_items).astype(np.float64)

        prior = by_item(_shares(once, ages, choice.prior_half_life_days))
        return cls(events, np.cumsum(weights), by_item(weights), prior)

    @property
    def log_prior(self) -> npt.NDArray[np.float32]:
        """[items + 1] logarithm of each item's share, smoothed; the last is an unknown item's."""
        n_items = len(self.prior_share)
        # A few pseudo-draws spread over the catalogue keep never bought items finite.
        share = np.append(self.prior_share, 0.0) + PRIOR_SMOOTHING / n_items
        return np.asarray(np.log(share * n_items), np.float32)


def _shares(weights: Float64, ages: Float64, half_life: float) -> Float64:
    decayed: Float64 = weights * np.exp2(-ages / half_life)
    shares: Float64 = decayed / decayed.sum()
    return shares


def two_tower(spec: Spec) -> TwoTower:
    """The settings of the two towers, which ``spec`` must have chosen."""
    assert isinstance(spec.retrieval, TwoTower)
    return spec.retrieval


def training_dataset(
    spec: Spec,
    train: Users,
    n_items: int,
    events: TrainingEvents,
    seed: int,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Endless batches of events drawn by their weights: query features as of just before each, and their items.

    A query has ``events_per_user`` positives of one basket, drawn by their weights too, so that each event is drawn
    as often as alone. Histories are gathered from the timelines in the graph, and are as long as the batch's longest;
    nothing is stored once an event. Where no user has events at two moments, the data have no order, and an event's
    history is all else of its user.

    The workers of a ``context`` draw the same numbers and share out each batch: theirs together are the batch of one
    worker alone, replica by replica.

    Yields:
        query features of q queries, a replica's share, and ``positive`` [q * events_per_user] catalogue rows, a
        query's side by side.
    """
    choice = two_tower(spec)
    queries = Queries(spec, train, n_items)
    timelines = train.history
    baskets = timelines.cuts()
    starts = timelines.offsets[timelines.users]
    ordered = bool((baskets != starts).any())
    ends = baskets if ordered else timelines.offsets[timelines.users + 1]
    first, last = _basket_bounds(baskets[events.events])
    below = np.append(0.0, events.cumulative)
    owner, cuts, begin = tf.constant(timelines.users), tf.constant(ends), tf.constant(starts)
    items, times = tf.constant(timelines.items), tf.constant(timelines.times)
    rows, cumulative = tf.constant(events.events), tf.constant(events.cumulative)
    low, high = tf.constant(below[first]), tf.constant(below[last])
    each = choice.events_per_user

    def draw(random: tf.Tensor) -> dict[str, tf.Tensor]:
        # Dataset.random gives 32-bit whole numbers.
        uniform = tf.cast(random, tf.float64) / 2.0**32
        drawn = tf.minimum(tf.searchsorted(cumulative, uniform[:, 0]), len(events.events) - 1)
        event = tf.gather(rows, drawn)
        end, start = tf.gather(cuts, event), tf.gather(begin, event)
        longest = tf.minimum(tf.reduce_max(end - start), choice.history_length)
        features = queries.features(tf.gather(owner, event), end, tf.gather(times, event), longest, event)
        chosen = drawn[:, tf.newaxis]
        if each > 1:
            bottom, top = tf.gather(low, chosen), tf.gather(high, chosen)
            others = tf.searchsorted(cumulative, tf.reshape(bottom + uniform[:, 1:] * (top - bottom), [-1]))
            others = tf.reshape(tf.minimum(others, len(events.events) - 1), [-1, each - 1])
            chosen = tf.concat([chosen, others], axis=1)
        positive = tf.gather(items, tf.gather(rows, chosen))
        # Positives are left out of their own history: what remains must explain them, as it must for new items.
        history = features["history_item_id"]
        own = tf.reduce_any(history[:, :, tf.newaxis] == positive[:, tf.newaxis], axis=2)
        features["history_item_id"] = tf.where(own, n_items, history)
        return {**features, "positive": tf.reshape(positive, [-1])}

    numbers = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    replicas = context.num_replicas_in_sync if context else 1
    share = max(1, choice.batch_size // each // replicas)
    shares = numbers.batch(each, drop_remainder=True).batch(share, drop_remainder=True)
    if context and context.num_input_pipelines > 1:
        own = shares.batch(replicas // context.num_input_pipelines, drop_remainder=True)
        shares = own.shard(context.num_input_pipelines, context.input_pipeline_id).unbatch()
    return shares.map(draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def _basket_bounds(baskets: Int64) -> tuple[Int64, Int64]:
    """Of events [n] in time order with their baskets: the first of each event's basket, and one past its last."""
    _, first, basket, sizes = np.unique(baskets, return_index=True, return_inverse=True, return_counts=True)
    begins = first[basket].astype(np.int64)
    return begins, begins + sizes[basket]
