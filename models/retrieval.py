"""Retrieval training: the two towers on draws of past events, with in-batch and uniform negatives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models import parameter_servers
from twotower.models.cluster import Cluster
from twotower.models.contract import Towers, TrainingData
from twotower.models.early_stopping import KeepBest, before
from twotower.models.graph_factors import GraphFactors
from twotower.models.id_embeddings import id_embedding
from twotower.models.lazy_adam import LazyAdam
from twotower.models.moments import training_end
from twotower.models.plain_model import PlainModel
from twotower.models.queries import DAY
from twotower.models.replicas import own_first
from twotower.models.sampled_softmax import inclusion_probability, softmax_loss
from twotower.models.tables import Catalogue, Users
from twotower.models.time_limit import StepLimit
from twotower.models.towers import CandidateTower, HistoryItems, QueryTower
from twotower.models.training import Progress, progress, schedule
from twotower.models.training_events import TrainingEvents, training_dataset, two_tower
from twotower.models.warm_start import Base


def fit(data: TrainingData) -> Towers:
    """Train the two towers; with ``validation_days`` on what is before them, keeping the best epoch's weights.

    Under a strategy's scope all its workers call this, with the same data, and share out the steps; the chief alone
    does on parameter servers.
    """
    spec, catalogue = data.spec, data.catalogue
    choice = two_tower(spec)
    encodings = (*data.train.encodings, *catalogue.encodings)
    base = None if data.warm is None else data.warm.base(choice, encodings)
    model, train, events = _untrained(data, base)
    progress.info(f"{len(events.events):,} events of {len(train):,} users, {len(catalogue):,} items")
    epochs = choice.epochs if base is None else choice.warm_epochs or choice.epochs
    towers = Towers(model.query, model.candidate)
    steps = max(1, choice.events_per_epoch // choice.batch_size)
    rate = schedule(choice.learning_rate, choice.learning_rate_schedule, epochs * steps)
    model.compile(optimizer=LazyAdam(rate))
    callbacks: list[tf.keras.callbacks.Callback] = []
    if choice.validation_days:
        callbacks.append(KeepBest(towers, spec, catalogue, data.train, _validation(data)))
    callbacks.append(Progress(epochs, steps, choice.batch_size, data.folder))
    if tf.distribute.has_strategy():
        callbacks.append(StepLimit())

    def batches(context: tf.distribute.InputContext | None) -> tf.data.Dataset:
        dataset = training_dataset(spec, train, len(catalogue), events, spec.seed, context)
        if context and context.input_pipeline_id:
            # Each worker draws uniform items and dropout of its own.
            tf.random.set_seed(spec.seed + context.input_pipeline_id)
        return dataset

    strategy = tf.distribute.get_strategy()
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        dataset = batches(None)
        model.create_variables(next(iter(dataset)))
        workers = len(Cluster.of_environment().jobs["worker"])
        parameter_servers.train(model, dataset, epochs=epochs, steps=steps, workers=workers, callbacks=callbacks)
    else:
        if data.warm is not None and base is not None:
            model.create_variables(next(iter(batches(None))))
            base.carry_into(model.query, model.candidate, data.warm.vocabularies)
        dataset = strategy.distribute_datasets_from_function(batches)
        model.fit(dataset, epochs=epochs, steps_per_epoch=steps, verbose=0, callbacks=callbacks)
    _set_whole_prior(model, data)
    return towers


def local_copy(data: TrainingData, trained: Towers) -> Towers:
    """Towers ``trained`` under a strategy, as one process would have trained them; a table's shards become one."""
    model, train, events = _untrained(data)
    dataset = training_dataset(data.spec, train, len(data.catalogue), events, data.spec.seed)
    model.create_variables(next(iter(dataset)))
    pairs: list[tuple[tf.keras.Model, tf.keras.Model]] = [
        (trained.query, model.query),
        (trained.candidate, model.candidate),
    ]
    for tower, copy in pairs:
        parts = (variable.numpy() for variable in tower.trainable_variables)
        for variable in copy.trainable_variables:
            rows = [next(parts)]
            while sum(len(part) for part in rows if part.ndim) < (variable.shape[0] if variable.shape.rank else 0):
                rows.append(next(parts))
            variable.assign(np.concatenate(rows) if len(rows) > 1 else rows[0])
    _set_whole_prior(model, data)
    return Towers(model.query, model.candidate)


def _set_whole_prior(model: Retrieval, data: TrainingData) -> None:
    """How much is bought at all is known up to the end of training, and not of what is before the validation alone."""
    if two_tower(data.spec).validation_days:
        model.candidate.set_prior(TrainingEvents.choose(data.spec, data.train, len(data.catalogue)).log_prior)


def _untrained(data: TrainingData, base: Base | None = None) -> tuple[Retrieval, Users, TrainingEvents]:
    """The model before training, the users with the events that it is to be trained on, and its positives.

    The embeddings are as wide as those of ``base``, what a warm start brings along.
    """
    spec, catalogue = data.spec, data.catalogue
    train = before(data.train, _validation(data)) if two_tower(spec).validation_days else data.train
    events = TrainingEvents.choose(spec, train, len(catalogue))
    tf.keras.utils.set_random_seed(spec.seed)
    query, candidate = build_towers(spec, catalogue, train, data.n_users, events, {} if base is None else base.widths)
    return Retrieval(query, candidate, catalogue, events.item_share, spec), train, events


def _validation(data: TrainingData) -> int:
    """When the validation period begins, unix seconds."""
    return training_end(data.spec.split, data.train.history) - two_tower(data.spec).validation_days * DAY


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


class Retrieval(PlainModel):
    """The towers and their loss: a sampled softmax over in-batch and uniform items (``sampled_softmax``).

    Not TFRS's ``Retrieval`` task, which makes a dense matrix of labels and passes over the scores once for each
    correction: here one compiled kernel (XLA) does all that is as large as queries times candidates.

    Replicas share out a step's queries and uniform items. A query meets the candidates of all of them, so that their
    losses, and their gradients, add up to those of the whole step.
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
        # Variables, so that parameter servers hold them; a constant would travel with every step.
        self._catalogue = {name: tf.Variable(rows, trainable=False) for name, rows in catalogue.features.items()}
        self._n_items = len(catalogue)
        self._choice = choice
        self._share = tf.Variable(sampling_share, dtype=tf.float32, trainable=False)
        self._loss = tf.function(softmax_loss, jit_compile=True, autograph=False)

    def create_variables(self, inputs: Mapping[str, tf.Tensor]) -> None:
        """Create the layers' weights, which a first step would create otherwise."""
        self.query(inputs)
        self.candidate(self.item_features(inputs["positive"]))

    def item_features(self, rows: tf.Tensor) -> dict[str, tf.Tensor]:
        """Transformed features of catalogue rows [b]."""
        return {"item_id": rows, **{name: tf.gather(table, rows) for name, table in self._catalogue.items()}}

    def compute_loss(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The step's mean softmax loss, or a replica's part of it; ``inputs`` as ``training_dataset`` yields them."""
        positives = inputs["positive"]
        number = self._choice.uniform_negatives // self.distribute_strategy.num_replicas_in_sync
        uniform = tf.random.uniform([number], maxval=self._n_items, dtype=positives.dtype)
        return self.loss_against(inputs, uniform, training)

    def loss_against(self, inputs: Mapping[str, tf.Tensor], uniform: tf.Tensor, training: bool) -> tf.Tensor:
        """The same with this replica's ``uniform`` items [n]."""
        choice, replicas = self._choice, self.distribute_strategy.num_replicas_in_sync
        positives = inputs["positive"]
        rows = tf.concat([positives, uniform], axis=0)
        every = own_first(rows) if replicas > 1 else rows
        share = tf.gather(self._share, every)
        n_positives, n_uniform = replicas * positives.shape[0], replicas * uniform.shape[0]
        probability = inclusion_probability(share, n_positives, n_uniform, self._n_items)
        queries = self.query(inputs, training=training)
        candidates = self.candidate(self.item_features(rows), training=training)
        loss = self._loss(
            queries,
            own_first(candidates) if replicas > 1 else candidates,
            every,
            tf.math.log(probability) if choice.logq_correction else tf.zeros_like(share),
            each=choice.events_per_user,
            n_items=self._n_items,
            hardness=choice.hard_negatives,
        )
        return loss / replicas if replicas > 1 else loss
