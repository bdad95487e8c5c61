"""Retrieval training: the two towers on draws of past events, with in-batch and uniform negatives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_recommenders as tfrs

from twotower.features.spec import Spec
from twotower.models.contract import Towers, TrainingData
from twotower.models.early_stopping import KeepBest, before
from twotower.models.graph_factors import GraphFactors
from twotower.models.id_embeddings import id_embedding
from twotower.models.lazy_adam import LazyAdam
from twotower.models.moments import training_end
from twotower.models.queries import DAY
from twotower.models.sampled_softmax import inclusion_probability, softmax_loss
from twotower.models.tables import Catalogue, Users
from twotower.models.towers import CandidateTower, HistoryItems, QueryTower
from twotower.models.training import Progress, progress, schedule
from twotower.models.training_events import TrainingEvents, training_dataset, two_tower


def fit(data: TrainingData) -> Towers:
    """Train the two towers; with ``validation_days`` on what is before them, keeping the best epoch's weights."""
    spec, catalogue = data.spec, data.catalogue
    choice = two_tower(spec)
    validation = training_end(spec.split, data.train.history) - choice.validation_days * DAY
    train = before(data.train, validation) if choice.validation_days else data.train
    events = TrainingEvents.choose(spec, train, len(catalogue))
    progress.info(f"{len(events.events):,} events of {len(train):,} users, {len(catalogue):,} items")
    tf.keras.utils.set_random_seed(spec.seed)
    encodings = (*train.encodings, *catalogue.encodings)
    base = None if data.warm is None else data.warm.base(choice, encodings)
    epochs = choice.epochs if base is None else choice.warm_epochs or choice.epochs
    widths = {} if base is None else base.widths
    query, candidate = build_towers(spec, catalogue, train, data.n_users, events, widths)
    towers = Towers(query, candidate)
    model = Retrieval(query, candidate, catalogue, events.item_share, spec)
    steps = max(1, choice.events_per_epoch // choice.batch_size)
    rate = schedule(choice.learning_rate, choice.learning_rate_schedule, epochs * steps)
    model.compile(optimizer=LazyAdam(rate))
    stopping = [KeepBest(towers, spec, catalogue, data.train, validation)] if choice.validation_days else []
    dataset = training_dataset(spec, train, len(catalogue), events, spec.seed)
    if data.warm is not None and base is not None:
        model.build_from(next(iter(dataset)))
        base.carry_into(query, candidate, data.warm.vocabularies)
    model.fit(
        dataset,
        epochs=epochs,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[*stopping, Progress(epochs, steps, choice.batch_size, data.folder)],
    )
    # How much is bought at all is known up to the end of training.
    candidate.set_prior(TrainingEvents.choose(spec, data.train, len(catalogue)).log_prior)
    return towers


def build_towers(
    spec: Spec,
    catalogue: Catalogue,
    train: Users,
    n_users: int,
    events: TrainingEvents,
    widths: Mapping[str, int] = MappingProxyType({}),
) -> tuple[QueryTower, CandidateTower]:
    """Untrained towers for the catalogue and the training users (``n_users`` in the user vocabulary).

    ``widths`` are those of embeddings that a warm start brings along.
    """
    choice = two_tower(spec)
    n_items = len(catalogue)
    item_counts = np.bincount(train.history.items, minlength=n_items + 1)[:n_items]
    user_counts = np.zeros(n_users, dtype=np.int64)
    known = train.rows < n_users
    user_counts[train.rows[known]] = train.history.lengths[known]
    graph = None
    if choice.graph_factors:
        graph = GraphFactors.of(train.history, n_items, choice.graph_factors, choice.min_id_count, spec.seed)
    query = QueryTower(
        train.encodings,
        id_embedding(choice, user_counts, "user_ids"),
        HistoryItems(id_embedding(choice, item_counts, "history_ids"), catalogue.labels, catalogue.features, widths),
        n_items=n_items,
        units=choice.tower_units,
        dim=choice.embedding_dim,
        history_encoder=choice.history_encoder,
        similarity=choice.similarity,
        temperature=choice.temperature,
        graph=graph,
        widths=widths,
    )
    candidate = CandidateTower(
        catalogue.encodings,
        id_embedding(choice, item_counts, "item_ids"),
        events.log_prior,
        units=choice.tower_units,
        dim=choice.embedding_dim,
        affinity_weight=choice.affinity_weight,
        similarity=choice.similarity,
        graph=graph,
        widths=widths,
    )
    return query, candidate


class Retrieval(tfrs.models.Model):
    """The towers and their loss: a sampled softmax over in-batch and uniform items (``sampled_softmax``).

    Not TFRS's ``Retrieval`` task, which makes a dense matrix of labels and passes over the scores once for each
    correction: here one compiled kernel (XLA) does all that is as large as queries times candidates.
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
        choice = two_tower(spec)
        self.query = query
        self.candidate = candidate
        self._catalogue = {name: tf.constant(rows) for name, rows in catalogue.features.items()}
        self._n_items = len(catalogue)
        self._choice = choice
        self._share = tf.constant(sampling_share, tf.float32)
        self._loss = tf.function(softmax_loss, jit_compile=True)

    def item_features(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Transformed features of catalogue rows [b]."""
        return {"item_id": rows, **{name: tf.gather(table, rows) for name, table in self._catalogue.items()}}

    def build_from(self, inputs: Mapping[str, tf.Tensor]) -> None:
        """Create the towers' weights; ``inputs`` are as of ``compute_loss``."""
        self.query(inputs)
        self.candidate(self.item_features(inputs["positive"]))

    def compute_loss(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The batch's mean softmax loss; ``inputs`` are as ``training_dataset`` yields them."""
        choice = self._choice
        positives = inputs["positive"]
        uniform = tf.random.uniform([choice.uniform_negatives], maxval=self._n_items, dtype=positives.dtype)
        rows = tf.concat([positives, uniform], axis=0)
        share = tf.gather(self._share, rows)
        probability = inclusion_probability(share, positives.shape[0], choice.uniform_negatives, self._n_items)
        return self._loss(
            self.query(inputs, training=training),
            self.candidate(self.item_features(rows), training=training),
            rows,
            tf.math.log(probability) if choice.logq_correction else tf.zeros_like(share),
            each=choice.events_per_user,
            n_items=self._n_items,
            hardness=choice.hard_negatives,
        )
