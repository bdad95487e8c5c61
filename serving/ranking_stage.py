"""The second stage: candidates, scored and ordered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.serving.item_ids import ItemIds
from twotower.serving.reranking import Reranking

Tensors = Mapping[str, tf.Tensor]


class RankingStage(tf.Module):
    """The ranker, and the rules over its scores.

    Args:
        spec: the shop.
        ranker: a loaded ``RankingExport``.
        ids: the items'.
        n_items: how many of them can be recommended.
        trained_rows: see ``RetrievalStage``; a ranker with tables of the items knows them by their own rows.
        reranking: the rules.
    """

    def __init__(
        self,
        spec: Spec,
        ranker: tf.Module | None,
        ids: ItemIds,
        n_items: int,
        trained_rows: tf.Variable | None,
        reranking: Reranking,
    ) -> None:
        super().__init__()
        self._trained_rows = None if getattr(ranker, "item_tables", None) else trained_rows
        self._spec, self._ids, self._n_items = spec, ids, n_items
        self._ranker: Any = ranker
        self._reranking = reranking

    def specs(self) -> dict[str, tf.TensorSpec]:
        """The rules' inputs."""
        return self._reranking.specs()

    def scores(self, features: Tensors, candidates: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores [b, n] by task of rows [b, n]; ``ids.size`` = unknown."""
        length = self._spec.ranking.history_length
        history = {name: features[name][:, :length] for name in ("history_item_id", "history_age")}
        if self._trained_rows is not None:
            trained = self._trained_rows.read_value()
            history["history_item_id"] = tf.gather(trained, history["history_item_id"])
            candidates = tf.gather(trained, candidates)
        scores: dict[str, tf.Tensor] = self._ranker.score({**features, **history}, candidates)
        return scores

    def best(self, scores: Tensors, candidates: tf.Tensor, k: tf.Tensor, inputs: Tensors) -> dict[str, tf.Tensor]:
        """The list: ``item_ids``, ``scores`` and ``score_<task>`` [b, k], padded with empty ids and -inf."""
        # One more that is none keeps the candidates from being empty.
        rows = tf.pad(candidates, [[0, 0], [0, 1]], constant_values=self._ids.size)
        tasks = {task: tf.pad(values, [[0, 0], [0, 1]]) for task, values in scores.items()}
        values = self._reranking.boosted(tasks["bought"], rows, inputs)
        values = tf.where(rows < self._n_items, values, -np.inf)
        best, places = self._reranking.best(values, rows, k, inputs)
        missing = [[0, 0], [0, k - tf.shape(best)[1]]]

        def listed(found: tf.Tensor) -> tf.Tensor:
            chosen = tf.where(best > -np.inf, tf.gather(found, places, batch_dims=1), -np.inf)
            return tf.pad(chosen, missing, constant_values=-np.inf)

        found = tf.where(best > -np.inf, tf.gather(rows, places, batch_dims=1), self._ids.size)
        found = tf.pad(found, missing, constant_values=self._ids.size)
        outputs = {"item_ids": self._ids.names(found), "scores": tf.pad(best, missing, constant_values=-np.inf)}
        return {**outputs, **{f"score_{task}": listed(values) for task, values in tasks.items()}}
