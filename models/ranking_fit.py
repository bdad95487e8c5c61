"""Training of the multi-task ranker on the lists of past snapshots, and its calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from sklearn.linear_model import LogisticRegression

from twotower.features.model_choices import MultiTask
from twotower.features.spec import Spec
from twotower.models.boosted_trees import BoostedTrees, grow
from twotower.models.co_purchase import ItemVectors
from twotower.models.contract import Features
from twotower.models.moments import training_end
from twotower.models.ranking import Ranking, RankingNetwork, catalogue_tables
from twotower.models.ranking_contract import Ranker, RankingData
from twotower.models.ranking_features import RankingFeatures, Snapshot, feature_tables, item_groups
from twotower.models.ranking_inputs import training_dataset, training_lists
from twotower.models.tables import Catalogue, Users
from twotower.models.training import Progress, progress


class MultiTaskRanker(tf.Module):
    """The probability to be bought and the quantity if it is, given what ``numbers`` knows of the items.

    Where there are ``trees``, the logit is the mean of theirs and the network's.
    """

    def __init__(self, numbers: RankingFeatures, network: RankingNetwork) -> None:
        super().__init__()
        self.numbers, self.network = numbers, network
        self.trees: BoostedTrees | None = None
        self.slope, self.offset = tf.Variable(1.0, trainable=False), tf.Variable(0.0, trainable=False)

    @property
    def item_tables(self) -> dict[str, tf.Variable]:
        """What is known of each item, [n_items + 1, ...] by name; see ``refreshed_tables``."""
        return {**self.numbers.item_tables, **self.network.item_tables}

    def __call__(self, features: Features, candidates: tf.Tensor) -> dict[str, tf.Tensor]:
        """Query features and candidates [b, n] to ``bought`` and ``quantity`` [b, n]."""
        logits, quantity = self._scores(features, candidates, self.numbers(features, candidates))
        return {"bought": tf.sigmoid(self.slope * logits + self.offset), "quantity": quantity}

    def _scores(self, features: Features, candidates: tf.Tensor, numbers: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits, not calibrated yet, and quantities [b, n]."""
        scores = self.network(features, candidates, numbers)
        logits = scores["bought"]
        if self.trees is not None:
            logits = (logits + self.trees(numbers)) / 2
        return logits, tf.math.expm1(tf.nn.relu(scores["quantity"]))

    def calibrate(self, dataset: tf.data.Dataset) -> None:
        """Fit the probabilities to what was bought (Platt 1999): a slope and an offset of the logits."""
        logits, bought, weight = [], [], []
        for inputs in dataset:
            found, _ = self._scores(inputs, inputs["candidates"], inputs["numbers"])
            real = inputs["weight"] > 0
            logits.append(tf.boolean_mask(found, real).numpy())
            bought.append(tf.boolean_mask(inputs["bought"], real).numpy())
            weight.append(tf.boolean_mask(inputs["weight"], real).numpy())
        labels = np.concatenate(bought)
        if labels.min() == labels.max():  # everything was bought: there is nothing to tell apart
            return
        line = LogisticRegression(penalty=None).fit(
            np.concatenate(logits)[:, np.newaxis], labels, sample_weight=np.concatenate(weight)
        )
        self.slope.assign(line.coef_[0, 0])
        self.offset.assign(line.intercept_[0])


def build_ranker(spec: Spec, catalogue: Catalogue, train: Users) -> MultiTaskRanker:
    """An untrained ranker that knows the items as of the end of training."""
    choice = spec.ranking
    assert isinstance(choice, MultiTask)
    groups = item_groups(catalogue)
    end = training_end(spec.split, train.history)
    snapshot = Snapshot.take(spec, train.history, catalogue, groups, end)
    numbers = RankingFeatures(groups, snapshot)
    network = RankingNetwork(
        train.encodings,
        catalogue,
        len(numbers.names),
        units=choice.units,
        crosses=choice.crosses,
    )
    return MultiTaskRanker(numbers, network)


def refreshed_tables(
    spec: Spec,
    tables: Mapping[str, npt.NDArray[Any]],
    known: Catalogue,
    catalogue: Catalogue,
    rows: npt.NDArray[np.int32],
    train: Users,
) -> dict[str, npt.NDArray[np.generic]]:
    """A trained ranker's ``item_tables`` for other items.

    Items that it knew keep their co-purchase vectors. New ones have none, and the statistics of an item that nobody
    bought; what their groups sold is theirs too.

    Args:
        spec: the shop.
        tables: the trained ones.
        known: the items that it was trained on.
        catalogue: the n items that it is to know, with their features.
        rows: [n + 1] the trained row of each, the known catalogue's size = new; the last is an unknown item's.
        train: whom it was trained on.
    """
    groups = item_groups(catalogue, item_groups(known))
    place = np.full(len(known) + 1, len(catalogue), np.int32)
    place[rows[:-1]] = np.arange(len(catalogue))
    place[len(known)] = len(catalogue)
    history = replace(train.history, items=place[train.history.items])
    statistics = Snapshot.statistics_of(spec, history, catalogue, groups, training_end(spec.split, train.history))
    vectors = ItemVectors(tables["vectors"][rows], tables["root"][rows])
    return {**feature_tables(groups, Snapshot(statistics, vectors)), **catalogue_tables(catalogue)}


def fit(data: RankingData) -> Ranker:
    """Train on the lists of every snapshot."""
    spec = data.spec
    choice = spec.ranking
    assert isinstance(choice, MultiTask)
    tf.keras.utils.set_random_seed(spec.seed)
    ranker = build_ranker(spec, data.catalogue, data.train)
    training = training_lists(spec, data.train, data.queries, data.catalogue)
    lists = training.lists
    progress.info(
        f"{len(lists):,} lists at {choice.snapshots} snapshots, {int(lists.bought.sum()):,} positives, "
        f"{len(ranker.numbers.names)} features"
    )
    ranker.network.standardise_by(training.numbers[lists.weight > 0])
    model = Ranking(ranker.network, choice)
    steps = -(-len(lists) // choice.batch_size)
    # The rate falls to 0 over all steps.
    rate = tf.keras.optimizers.schedules.CosineDecay(choice.learning_rate, steps * choice.epochs)
    model.compile(optimizer=tf.keras.optimizers.Adam(rate))
    dataset = training_dataset(spec, data.queries, training, spec.seed)
    model.fit(
        dataset,
        epochs=choice.epochs,
        verbose=0,
        callbacks=[Progress(choice.epochs, steps, choice.batch_size * choice.list_size, data.folder)],
    )
    if choice.trees:
        progress.info(f"{choice.trees} trees beside the network")
        ranker.trees = BoostedTrees(grow(training, choice.trees, spec.seed))
    if choice.loss == "listwise":
        ranker.calibrate(dataset)
    return ranker
