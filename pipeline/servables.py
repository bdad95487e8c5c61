"""How the servables are composed of a run's parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models.transformed import Transformed
from twotower.pipeline.servable_folders import RANKING, folders
from twotower.serving import servable
from twotower.serving.item_ids import ItemIds
from twotower.serving.recommender import Recommender
from twotower.serving.requests import RequestTransform
from twotower.serving.rules import Rules


@dataclass(frozen=True)
class Parts:
    """What the servables of one version are made of.

    Attributes:
        data: of the run that trained them.
        towers, ranker: loaded exports.
        index: folder of the indexes, one a kind.
        ids: of the items, those of the index first.
        n_items: how many the index has.
        trained_rows: [ids + 1] the towers' row of each, where it is another one.
        raw: what the rules read of the items, by feature; those behind the first ``n_items`` have nothing.
        reference_time: "now" for a request without a time, unix seconds.
    """

    data: Transformed
    towers: tf.Module
    ranker: tf.Module
    index: Path
    ids: ItemIds
    n_items: int
    trained_rows: npt.NDArray[np.int32] | None
    raw: Mapping[str, npt.NDArray[np.generic]]
    reference_time: int


def save(spec: Spec, parts: Parts, version: int, out: Path) -> None:
    """Write every servable of ``folders`` into a folder of ``out`` that is called like it."""
    rules = Rules.of(spec, parts.raw, parts.ids, parts.n_items)
    for name in folders(spec.serving):
        card = {
            "name": spec.name,
            "version": version,
            "index": name,
            "items": parts.n_items,
            "reference_time": parts.reference_time,
            "notice": spec.notice,
            "spec": spec.model_dump(mode="json", by_alias=True),
        }
        if spec.serving.shape == "composed":
            recommender = _recommender(spec, parts, rules, index=name)
            signatures = recommender.signatures()
        elif name == RANKING:
            # The portable index gives the vectors that diversity needs, where any server can load it.
            index = "portable" if rules.diversity else None
            recommender = _recommender(spec, parts, replace(rules, filters=()), index=index, towers=False)
            signatures = recommender.ranking_signatures()
        else:
            filters_alone = Rules(rules.filters, {}, {}, False)
            recommender = _recommender(spec, parts, filters_alone, index=name, ranker=False)
            signatures = recommender.retrieval_signatures()
        servable.save(recommender, signatures, out / name, card)


def _recommender(
    spec: Spec, parts: Parts, rules: Rules, *, index: str | None, towers: bool = True, ranker: bool = True
) -> Recommender:
    data = parts.data
    transform = RequestTransform(
        spec,
        data.output.transform_features_layer(),
        data.query_encodings,
        data.item_encodings,
        len(data.item_ids()),
        parts.ids,
        parts.reference_time,
    )
    trained = parts.trained_rows
    return Recommender(
        spec,
        transform,
        parts.towers if towers else None,
        None if index is None else servable.load(parts.index / index),
        parts.ranker if ranker else None,
        parts.ids,
        rules,
        parts.n_items,
        None if trained is None else tf.Variable(trained, trainable=False),
    )
