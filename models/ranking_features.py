"""The numbers that the ranker sees of a candidate: repeat features, item statistics, promotions and co-purchase."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.co_purchase import CO_PURCHASE_FEATURES, ItemVectors, co_purchase_features, item_vectors
from twotower.models.item_statistics import item_statistics
from twotower.models.promotion_statistics import promotion_statistics
from twotower.models.repeat_features import names as repeat_names
from twotower.models.repeat_features import repeat_features
from twotower.models.tables import Catalogue

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]

# Width of the co-purchase vectors.
VECTOR_DIM = 64


def item_groups(catalogue: Catalogue, names: Collection[str] | None = None) -> dict[str, Int32]:
    """[n_items + 1] int32 group of each item by the group's name; the highest is the unknown one, and the last item's.

    Labels are groups. So are the items with the same words or labels, where there are at most half as many such
    groups as items; or, where ``names`` are given, those.
    """
    groups: dict[str, Int32] = {}
    for encoding in catalogue.encodings:
        rows: npt.NDArray[Any] = catalogue.features[encoding.name]
        name = encoding.name.removeprefix("item_")
        if encoding in catalogue.labels:
            groups[name] = np.append(rows, encoding.size - 1).astype(np.int32)
        elif encoding.form == "indices":
            distinct, of_item = np.unique(rows, axis=0, return_inverse=True)
            if 2 * len(distinct) <= len(rows) if names is None else name in names:
                nothing = np.all(distinct < 0, axis=1)[of_item.ravel()]
                groups[name] = np.append(np.where(nothing, len(distinct), of_item.ravel()), len(distinct)).astype(
                    np.int32
                )
    return groups


@dataclass(frozen=True)
class Snapshot:
    """What a shop knows of its items at a moment: statistics of items and promotions by name, and ``item_vectors``."""

    statistics: Mapping[str, Float32]
    vectors: ItemVectors

    @classmethod
    def take(
        cls, spec: Spec, history: Timelines, catalogue: Catalogue, groups: Mapping[str, Int32], at: int
    ) -> Snapshot:
        """No purchase at or after ``at`` is read, and no promotion that was not known then."""
        statistics = cls.statistics_of(spec, history, catalogue, groups, at)
        return cls(statistics, item_vectors(history, at, len(catalogue), VECTOR_DIM, spec.seed))

    @staticmethod
    def statistics_of(
        spec: Spec, history: Timelines, catalogue: Catalogue, groups: Mapping[str, Int32], at: int
    ) -> dict[str, Float32]:
        """The statistics alone."""
        n_items = len(catalogue)
        statistics = item_statistics(history, at, n_items, groups)
        if catalogue.promotions is not None:
            assert spec.promotions is not None
            known, horizon = spec.promotions.known_days, spec.ranking.horizon_days
            found = promotion_statistics(catalogue.promotions, at, n_items, known, horizon)
            statistics |= {f"promotion_{name}": values for name, values in found.items()}
        return statistics


class RankingFeatures(tf.Module):
    """Features of candidates in the graph, given what was known at a snapshot.

    Attributes:
        names: [width] of the features, in their order.
        item_tables: what ``feature_tables`` gives, as variables that may be assigned tables of other items.
    """

    def __init__(self, groups: Mapping[str, Int32], snapshot: Snapshot) -> None:
        super().__init__()
        self.item_tables = {name: item_table(values) for name, values in feature_tables(groups, snapshot).items()}
        self._groups = [group_key(name) for name in groups]
        shop = [f"shop_{name}" for name in snapshot.statistics]
        self.names = [*repeat_names(list(groups)), *CO_PURCHASE_FEATURES, *shop]

    def __call__(self, features: Mapping[str, tf.Tensor], candidates: tf.Tensor) -> tf.Tensor:
        """Query features of b users and candidates [b, n] (catalogue rows; its size = padding) to [b, n, width]."""
        items, ages = features["history_item_id"], features["history_age"]
        tables = {name: table.read_value() for name, table in self.item_tables.items()}
        n_items = tf.shape(tables["statistics"])[0] - 1
        groups = [tables[key] for key in self._groups]
        together = co_purchase_features(tables["vectors"], tables["root"], items, ages, candidates)
        return tf.concat(
            [
                repeat_features(items, ages, candidates, n_items, groups),
                tf.stack([together[name] for name in CO_PURCHASE_FEATURES], axis=2),
                tf.gather(tables["statistics"], candidates),
            ],
            axis=2,
        )


def feature_tables(groups: Mapping[str, Int32], snapshot: Snapshot) -> dict[str, npt.NDArray[np.generic]]:
    """What ``RankingFeatures`` knows of each item, [n_items + 1, ...] by name; the last row is an unknown item's."""
    return {
        **{group_key(name): of_item for name, of_item in groups.items()},
        "statistics": np.stack(list(snapshot.statistics.values()), axis=1),
        "vectors": snapshot.vectors.vectors,
        "root": snapshot.vectors.root,
    }


def group_key(name: str) -> str:
    """The name of a group's table."""
    return f"group_{name}"


def item_table(values: npt.NDArray[np.generic]) -> tf.Variable:
    """A table of items that can be assigned one of more or fewer items."""
    return tf.Variable(values, trainable=False, shape=tf.TensorShape([None, *values.shape[1:]]))
