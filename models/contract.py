"""What every retrieval model keeps: it is fitted to the same data, and it is two towers with one vector each.

A score is the dot product of a query's and an item's vector. The last dimension is the item's bias, by which
the query's last entry, 1, is multiplied. So one index, one evaluator and one server serve them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models.tables import Catalogue, Users

if TYPE_CHECKING:
    from twotower.models.warm_start import WarmStart

Features = Mapping[str, tf.Tensor]
# Transformed features of b queries or items to [b, dim] float32; a tf.Module.
Tower = Callable[[Features], tf.Tensor]


@dataclass(frozen=True)
class TrainingData:
    """What a retrieval model learns from.

    Attributes:
        spec: the shop; ``spec.retrieval`` is the chosen model with its settings.
        catalogue: every item, in vocabulary order.
        train: the users with their events before the split.
        n_users: size of the user vocabulary; ``train.rows`` point into it.
        folder: where a model that trains in epochs leaves its curve.
        warm: where the two towers go on from, if they are to.
    """

    spec: Spec
    catalogue: Catalogue
    train: Users
    n_users: int
    folder: Path
    warm: WarmStart | None = None


@dataclass(frozen=True)
class Towers:
    """A fitted model.

    Attributes:
        query: ``user_id`` [b], ``history_item_id`` and ``history_age`` [b, h], user and context encodings to [b, dim].
        candidate: ``item_id`` [b] and the item encodings to [b, dim].
    """

    query: Tower
    candidate: Tower
