"""Retrieval training: the TFRS two-tower model with in-batch and uniform negatives, and its input pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from twotower.features.spec import Spec
from twotower.models.queries import DAY, Queries
from twotower.models.tables import Catalogue, Users
from twotower.models.towers import CandidateTower, HistoryItems, IdEmbedding, QueryTower

# Draws spread evenly over the catalogue, as a share of all draws, in the items' prior.
PRIOR_SMOOTHING = 0.1


def build_towers(
    spec: Spec, catalogue: Catalogue, train: Users, n_users: int, events: TrainingEvents
) -> tuple[QueryTower, CandidateTower]:
    """Untrained towers for the catalogue and the training users (``n_users`` in the user vocabulary)."""
    choice = spec.retrieval
    n_items = len(catalogue)
    item_counts = np.bincount(train.history.items, minlength=n_items + 1)[:n_items]
    user_counts = np.zeros(n_users, dtype=np.int64)
    known = train.rows < n_users
    user_counts[train.rows[known]] = train.history.lengths[known]

    def id_embedding(counts: npt.NDArray[np.int64], name: str) -> IdEmbedding:
        return IdEmbedding(
            counts, min_count=choice.min_id_count, dim=choice.embedding_dim - 1, dropout=choice.id_dropout, name=name
        )

    query = QueryTower(
        train.encodings,
        id_embedding(user_counts, "user_ids"),
        HistoryItems(id_embedding(item_counts, "history_ids"), catalogue.labels, catalogue.features),
        n_items=n_items,
        units=choice.tower_units,
        dim=choice.embedding_dim,
    )
    candidate = CandidateTower(
        catalogue.encodings,
        id_embedding(item_counts, "item_ids"),
        events.log_prior,
        units=choice.tower_units,
        dim=choice.embedding_dim,
        affinity_weight=choice.affinity_weight,
    )
    return query, candidate


class Retrieval(tfrs.models.Model):
    """Sampled softmax over in-batch and uniform items with logQ correction (Yi et al. 2019; Yang et al. 2020).

    A step's candidates are a set: an item that was drawn several times counts once, and never against itself. It
    is drawn ``batch`` times by its share of the positives and ``uniform_negatives`` times by 1 / items; the
    correction subtracts the logarithm of the probability to be in the set. Without it, popular items are punished
    for being sampled often.
    """

    def __init__(
        self,
        query: QueryTower,
        candidate: CandidateTower,
        catalogue: Catalogue,
        sampling_share: npt.NDArray[np.float64],
        spec: Spec,
    ) -> None:
        super().__init__()
        choice = spec.retrieval
        self.query = query
        self.candidate = candidate
        self._catalogue = {name: tf.constant(rows) for name, rows in catalogue.features.items()}
        self._n_items = len(catalogue)
        self._n_uniform = choice.uniform_negatives
        self._logq = choice.logq_correction
        self._share = tf.constant(sampling_share, tf.float32)
        self._task = tfrs.tasks.Retrieval(
            loss=tf.keras.losses.CategoricalCrossentropy(from_logits=True),
        )

    def item_features(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Transformed features of catalogue rows [b]."""
        return {"item_id": rows, **{name: tf.gather(table, rows) for name, table in self._catalogue.items()}}

    def compute_loss(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The batch's mean softmax loss; ``inputs`` are the query features and ``positive`` [b]."""
        positives = inputs["positive"]
        uniform = tf.random.uniform([self._n_uniform], maxval=self._n_items, dtype=positives.dtype)
        rows = tf.concat([positives, uniform], axis=0)
        batch = tf.cast(tf.shape(positives)[0], tf.float32)
        expected = batch * tf.gather(self._share, rows) + self._n_uniform / self._n_items
        # How often an item is drawn is all but Poisson distributed: this is the probability that it is at all.
        probability = -tf.math.expm1(-expected)
        return self._task(
            self.query(inputs, training=training),
            self.candidate(self.item_features(rows), training=training),
            candidate_sampling_probability=probability if self._logq else None,
            score_mask=_distinct(rows, tf.size(positives)),
            compute_metrics=False,
        )


def _distinct(rows: tf.Tensor, n_queries: int) -> tf.Tensor:
    """Which candidates count for each query, [n_queries, candidates]: its own, and each other item's first place."""
    places = tf.range(tf.size(rows))
    _, item = tf.unique(rows)
    first = tf.gather(tf.math.unsorted_segment_min(places, item, tf.size(rows)), item) == places
    queries = places[:n_queries, tf.newaxis]
    return (queries == places) | (first & (rows[:n_queries, tf.newaxis] != rows))


@dataclass(frozen=True)
class TrainingEvents:
    """The positives of retrieval training: rows into the training users' timelines, and how often each is drawn.

    A user and an item are one positive, however often they met; what is recent is drawn more often, so that
    the towers learn what is bought now.

    Attributes:
        events: [events] rows of the timelines.
        cumulative: [events] running sum of the events' shares of the draws; ends at 1.
        item_share: [items] each item's share of the draws: the sampling probability of the logQ correction.
    """

    events: npt.NDArray[np.int64]
    cumulative: npt.NDArray[np.float64]
    item_share: npt.NDArray[np.float64]

    @classmethod
    def choose(cls, spec: Spec, train: Users, n_items: int) -> TrainingEvents:
        """Every event with a known item, weighted by 0.5^(age / half-life) and once a user and item.

        Raises:
            ValueError: no event has a known item.
        """
        timelines = train.history
        events = np.flatnonzero(timelines.items < n_items)
        if not len(events):
            raise ValueError("retrieval training needs at least one event with an item of the catalogue, found none")
        items = timelines.items[events]
        ages = (spec.split.start - timelines.times[events]) / DAY
        pairs = timelines.users[events] * n_items + items
        _, pair, repeats = np.unique(pairs, return_inverse=True, return_counts=True)
        # Relative to the newest event, so that old data under a short half-life do not all round to nothing.
        weights = np.exp2((ages.min() - ages) / spec.retrieval.recency_half_life_days) / repeats[pair]
        weights /= weights.sum()
        share = np.bincount(items, weights=weights, minlength=n_items).astype(np.float64)
        return cls(events, np.cumsum(weights), share)

    @property
    def log_prior(self) -> npt.NDArray[np.float32]:
        """[items + 1] logarithm of each item's share, smoothed; the last is an unknown item's."""
        n_items = len(self.item_share)
        # A few pseudo-draws spread over the catalogue keep never bought items finite.
        share = np.append(self.item_share, 0.0) + PRIOR_SMOOTHING / n_items
        return np.asarray(np.log(share * n_items), np.float32)


def training_dataset(spec: Spec, train: Users, n_items: int, events: TrainingEvents, seed: int) -> tf.data.Dataset:
    """Endless batches of events drawn by their weights: query features as of just before each, and its item.

    Histories are gathered from the timelines in the graph; nothing is stored once an event.
    """
    queries = Queries(spec, train, n_items)
    owner = tf.constant(train.history.users)
    cuts = tf.constant(train.history.cuts())
    items = tf.constant(train.history.items)
    times = tf.constant(train.history.times)
    rows, cumulative = tf.constant(events.events), tf.constant(events.cumulative)

    def draw(random: tf.Tensor) -> dict[str, tf.Tensor]:
        # Dataset.random gives 32-bit whole numbers.
        drawn = tf.searchsorted(cumulative, tf.cast(random, tf.float64) / 2.0**32)
        event = tf.gather(rows, tf.minimum(drawn, len(events.events) - 1))
        features = queries.features(
            tf.gather(owner, event),
            tf.gather(cuts, event),
            tf.gather(times, event),
            spec.retrieval.history_length,
            event,
        )
        positive = tf.gather(items, event)
        # A positive is left out of its own history: what remains must explain it, as it must for a new item.
        history = features["history_item_id"]
        features["history_item_id"] = tf.where(history == positive[:, tf.newaxis], n_items, history)
        return {**features, "positive": positive}

    dataset = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True).batch(spec.retrieval.batch_size)
    return dataset.map(draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
