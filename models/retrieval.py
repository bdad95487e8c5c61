"""Retrieval training: the TFRS two-tower model with in-batch and uniform negatives, and its input pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from twotower.features.preprocessing import time_part
from twotower.features.spec import Spec, TimeFeature
from twotower.models.tables import Catalogue, Users
from twotower.models.towers import CandidateTower, IdEmbedding, QueryTower

DAY = 86_400.0


def build_towers(
    spec: Spec, catalogue: Catalogue, train: Users, n_users: int, events: TrainingEvents, seed: int
) -> tuple[QueryTower, CandidateTower]:
    """Untrained towers for the catalogue and the training users (``n_users`` in the user vocabulary)."""
    tf.keras.utils.set_random_seed(seed)
    choice = spec.retrieval
    n_items = len(catalogue)
    item_counts = np.bincount(train.history.items, minlength=n_items + 1)[:n_items]
    user_counts = np.zeros(n_users, dtype=np.int64)
    known = train.rows < n_users
    user_counts[train.rows[known]] = train.history.lengths[known]
    ids = {"min_count": choice.min_id_count, "dim": choice.embedding_dim - 1, "dropout": choice.id_dropout}
    uids = ids | {"dropout": choice.user_dropout}
    query = QueryTower(
        train.encodings,
        IdEmbedding(user_counts, name="user_ids", **uids),
        IdEmbedding(item_counts, name="history_ids", **ids),
        n_items=n_items,
        units=choice.tower_units,
        dim=choice.embedding_dim,
    )
    candidate = CandidateTower(
        catalogue.encodings,
        IdEmbedding(item_counts, name="item_ids", **ids),
        events.log_prior(),
        units=choice.tower_units,
        dim=choice.embedding_dim,
    )
    return query, candidate


class Retrieval(tfrs.models.Model):
    """Sampled softmax over in-batch and uniform items with logQ correction (Yi et al. 2019; Yang et al. 2020).

    An item is in a step's candidates once for each of ``batch`` draws by its share of the positives, and
    once for each of ``uniform_negatives`` draws of 1 / items; the correction subtracts the logarithm of
    that expected number. Without it, popular items are punished for being sampled often.
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
            temperature=choice.temperature,
            remove_accidental_hits=True,
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
        return self._task(
            self.query(inputs, training=training),
            self.candidate(self.item_features(rows), training=training),
            candidate_sampling_probability=expected if self._logq else None,
            candidate_ids=rows,
            compute_metrics=False,
        )


@dataclass(frozen=True)
class TrainingEvents:
    """The positives of retrieval training: rows into the training users' timelines, and how often each is drawn.

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
        timelines = train.history
        events = np.flatnonzero(timelines.items < n_items)
        items = timelines.items[events]
        ages = (spec.split.start - timelines.times[events]) / DAY
        weights = np.exp2(-ages / spec.retrieval.recency_half_life_days)
        if spec.retrieval.distinct:
            _, pair, repeats = np.unique(
                timelines.users[events] * (n_items + 1) + items, return_inverse=True, return_counts=True
            )
            weights = weights / repeats[pair]
        weights /= weights.sum()
        cls.n=len(np.unique(items))
        return cls(events, np.cumsum(weights), np.bincount(items, weights=weights, minlength=n_items))

    def log_prior(self) -> npt.NDArray[np.float32]:
        share=np.append(self.item_share,0.0)
        return np.log(share*2000+0.01).astype(np.float32)


def training_dataset(spec: Spec, train: Users, n_items: int, events: TrainingEvents, seed: int) -> tf.data.Dataset:
    """One epoch of batches in random order: query features as of just before each event, and its item.

    Histories are gathered from the timelines in the graph; nothing is stored once an event.
    """
    timelines = train.history
    owner = tf.constant(timelines.users)
    cuts = tf.constant(timelines.cuts())
    starts = tf.constant(timelines.offsets[:-1])
    items = tf.constant(timelines.items)
    times = tf.constant(timelines.times)
    rows = tf.constant(train.rows)
    tables = {name: tf.constant(table) for name, table in train.features.items()}
    context = {name: tf.constant(values) for name, values in train.context.items()}
    length = spec.retrieval.history_length

    def features(event: tf.Tensor) -> dict[str, tf.Tensor]:
        user = tf.gather(owner, event)
        positions = tf.gather(cuts, event)[:, tf.newaxis] - 1 - tf.range(length, dtype=tf.int64)
        inside = positions >= tf.gather(starts, user)[:, tf.newaxis]
        positions = tf.maximum(positions, 0)
        now = tf.gather(times, event)
        ages = tf.cast(now[:, tf.newaxis] - tf.gather(times, positions), tf.float32) / DAY
        return {
            "user_id": tf.gather(rows, user),
            "history_item_id": tf.where(inside, tf.gather(items, positions), n_items) if not spec.retrieval.hide_positive else tf.where(inside & (tf.gather(items, positions) != tf.gather(items, event)[:, tf.newaxis]), tf.gather(items, positions), n_items),
            "history_age": tf.where(inside, ages, 0.0),
            "positive": tf.gather(items, event),
            **{name: tf.gather(table, user) for name, table in tables.items()},
            **{name: tf.gather(values, event) for name, values in context.items()},
            **context_times(spec, now),
        }

    rows_of_events, cumulative = tf.constant(events.events), tf.constant(events.cumulative)

    def draw(seeds: tf.Tensor) -> dict[str, tf.Tensor]:
        uniform = tf.cast(seeds, tf.float64) / 2.0**32
        drawn = tf.searchsorted(cumulative, uniform)
        return features(tf.gather(rows_of_events, tf.minimum(drawn, len(events.events) - 1)))

    dataset = tf.data.Dataset.random(seed=seed).batch(spec.retrieval.batch_size)
    return dataset.map(draw, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


def context_times(spec: Spec, times: tf.Tensor) -> dict[str, tf.Tensor]:
    """The context's time features of unix seconds [b], by encoding name."""
    return {
        f"context_{name}": time_part(times, feature.part)
        for name, feature in spec.context.items()
        if isinstance(feature, TimeFeature)
    }
