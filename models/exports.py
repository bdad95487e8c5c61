"""The trained networks as SavedModels over transformed features; the servable composes them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.features.section import Precision
from twotower.models.contract import Towers
from twotower.models.quantized import store_tables
from twotower.models.ranking_contract import Ranker


def feature_signature(encodings: Sequence[Encoding]) -> dict[str, tf.TensorSpec]:
    """Tensor specs of encodings, batch first."""
    shapes = {"index": [None], "indices": [None, None], "number": [None]}
    return {
        e.name: tf.TensorSpec(
            shapes.get(e.form, [None, e.size]), tf.int64 if e.form in ("index", "indices") else tf.float32, e.name
        )
        for e in encodings
    }


def query_signature(encodings: Sequence[Encoding]) -> dict[str, tf.TensorSpec]:
    """Tensor specs of query features: those of ``encodings``, the user and the history."""
    return {
        "user_id": tf.TensorSpec([None], tf.int64, "user_id"),
        "history_item_id": tf.TensorSpec([None, None], tf.int32, "history_item_id"),
        "history_age": tf.TensorSpec([None, None], tf.float32, "history_age"),
        **feature_signature(encodings),
    }


class TowersExport(tf.Module):
    """``query(features)`` and ``candidate(features)``, each to [b, dim].

    The towers' tables are stored at ``precision`` from now on: they are not trained after this.
    """

    def __init__(
        self,
        towers: Towers,
        query_encodings: Sequence[Encoding],
        item_encodings: Sequence[Encoding],
        history_length: int,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        store_tables((towers.query, towers.candidate), precision)
        self._query, self._candidate = towers.query, towers.candidate
        self.history_length = tf.Variable(history_length, trainable=False)
        self.precision = tf.Variable(precision, trainable=False)
        signature = {"item_id": tf.TensorSpec([None], tf.int64, "item_id"), **feature_signature(item_encodings)}
        self.query = tf.function(self._embed_query, [query_signature(query_encodings)], autograph=False)
        self.candidate = tf.function(self._embed_items, [signature], autograph=False)

    def _embed_query(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        return self._query(features)

    def _embed_items(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        return self._candidate(features)


class RankingExport(tf.Module):
    """``score(features, candidates [b, n])`` to each task's scores [b, n].

    ``item_tables`` are the ranker's, if it has any: variables that may be assigned tables of other items.
    """

    def __init__(self, ranker: Ranker, query_encodings: Sequence[Encoding]) -> None:
        super().__init__()
        self._ranker = ranker
        self.item_tables = dict(getattr(ranker, "item_tables", {}))
        candidates = tf.TensorSpec([None, None], tf.int32, "candidates")
        self.score = tf.function(self._score, [query_signature(query_encodings), candidates], autograph=False)

    def _score(self, features: dict[str, tf.Tensor], candidates: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._ranker(features, candidates)
