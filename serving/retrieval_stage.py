"""The first stage: a query's candidates, filtered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models.row_sets import contains
from twotower.serving import filtered_search
from twotower.serving import filters as rules
from twotower.serving.filters import Filter
from twotower.serving.item_ids import ItemIds

Tensors = Mapping[str, tf.Tensor]
EXCLUDED = "exclude_item_ids"


class RetrievalStage(tf.Module):
    """Towers and index.

    Args:
        spec: the shop.
        towers: a loaded ``TowersExport``.
        index: a loaded ``IndexExport`` over the towers' candidate embeddings.
        ids: the items'; the first ``n_items`` are those of the index.
        n_items: how many items can be recommended.
        trained_rows: [ids + 1] the row by which the towers know each item, their catalogue's size = unknown; None
            where all rows are the same.
        filters: what a request can ask for.
    """

    def __init__(
        self,
        spec: Spec,
        towers: tf.Module | None,
        index: tf.Module | None,
        ids: ItemIds,
        n_items: int,
        trained_rows: tf.Variable | None,
        filters: tuple[Filter, ...],
    ) -> None:
        super().__init__()
        self._spec, self._ids = spec, ids
        self._towers: Any = towers
        self._index: Any = index
        self._n_items, self._trained_rows, self._filters = n_items, trained_rows, filters

    def specs(self) -> dict[str, tf.TensorSpec]:
        """Inputs beside the query."""
        excluded = tf.TensorSpec([None, None], tf.string, EXCLUDED)
        return {EXCLUDED: excluded, **rules.specs(self._filters), "k": tf.TensorSpec([], tf.int32, "k")}

    def query_vectors(self, features: Tensors) -> tf.Tensor:
        """[b, dim] of queries."""
        length = self._spec.retrieval.history_length
        history = {name: features[name][:, :length] for name in ("history_item_id", "history_age")}
        if self._trained_rows is not None:
            history["history_item_id"] = tf.gather(self._trained_rows.read_value(), history["history_item_id"])
        return self._towers.query({**features, **history})

    def best(self, inputs: Tensors, vectors: tf.Tensor, wanted: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores and rows [b, wanted] of the best allowed items, best first; padded with -inf and ``ids.size``."""
        given = {**inputs, "excluded": self._ids.rows(inputs[EXCLUDED])}
        narrowed = tf.reduce_any(given["excluded"] < self._n_items)
        if self._filters:
            narrowed |= tf.reduce_any(rules.used(self._filters, inputs))
        scores, rows = tf.cond(
            narrowed,
            lambda: filtered_search.search(self._index, self._n_items, self._filters, given, vectors, wanted),
            lambda: self._index.search(vectors, wanted),
        )
        return scores, tf.where(rows < 0, self._ids.size, rows)

    def candidates(self, inputs: Tensors, features: Tensors, vectors: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
        """[b, m] rows of the best ``wanted`` items and of the history's, each once and allowed, ascending; padded."""
        _, retrieved = self.best(inputs, vectors, wanted)
        own = features["history_item_id"][:, : self._spec.ranking.history_length]
        rows = tf.sort(tf.concat([retrieved, own], axis=1), axis=1)
        repeated = tf.pad(rows[:, 1:] == rows[:, :-1], [[0, 0], [1, 0]])
        keep = (rows < self._n_items) & ~repeated & ~contains(self._ids.rows(inputs[EXCLUDED]), rows)
        if self._filters:
            keep &= rules.allows(self._filters, inputs, rows)
        return tf.ragged.boolean_mask(rows, keep).to_tensor(self._ids.size)
