"""What every ranker keeps: it is fitted to the same data, and it gives each candidate a score for each task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.contract import Features
from twotower.models.queries import Queries
from twotower.models.tables import Catalogue, Users

# Query features of b users and candidates [b, n] (catalogue rows, its size = padding) to scores [b, n] by task.
# ``bought`` is a probability, and orders the list. A tf.Module, so that it can be saved.
Ranker = Callable[[Features, tf.Tensor], dict[str, tf.Tensor]]


@dataclass(frozen=True)
class RankingData:
    """What a ranker learns from.

    Attributes:
        spec: the shop; ``spec.ranking`` is the chosen model with its settings.
        catalogue: every item, in vocabulary order.
        train: the users with their events before the split.
        n_users: size of the user vocabulary; ``train.rows`` point into it.
        queries: what the training users would ask.
        retriever: the fitted towers whose candidates are ranked, asked by the training users.
        folder: where a model that trains in epochs leaves its curve.
    """

    spec: Spec
    catalogue: Catalogue
    train: Users
    n_users: int
    queries: Queries
    retriever: TowerRetriever
    folder: Path
