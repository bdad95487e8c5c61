"""The trained networks as SavedModels over transformed features; the servable composes them."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.models.ranking import RankingNetwork
from twotower.models.towers import CandidateTower, QueryTower


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
    """``query(features)`` and ``candidate(features)``, each to [b, dim]."""

    def __init__(
        self,
        query: QueryTower,
        candidate: CandidateTower,
        query_encodings: Sequence[Encoding],
        item_encodings: Sequence[Encoding],
        history_length: int,
    ) -> None:
        super().__init__()
        self._query, self._candidate = query, candidate
        self.history_length = tf.Variable(history_length, trainable=False)
        signature = {"item_id": tf.TensorSpec([None], tf.int64, "item_id"), **feature_signature(item_encodings)}
        self.query = tf.function(self._embed_query, [query_signature(query_encodings)])
        self.candidate = tf.function(self._embed_items, [signature])

    def _embed_query(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        return self._query(features, training=False)

    def _embed_items(self, features: dict[str, tf.Tensor]) -> tf.Tensor:
        return self._candidate(features, training=False)


class RankingExport(tf.Module):
    """``score(features, candidates [b, n])`` to the probability of each task, with the statistics of export time."""

    def __init__(self, network: RankingNetwork, query_encodings: Sequence[Encoding]) -> None:
        super().__init__()
        self._network = network
        candidates = tf.TensorSpec([None, None], tf.int32, "candidates")
        self.score = tf.function(self._score, [query_signature(query_encodings), candidates])

    def _score(self, features: dict[str, tf.Tensor], candidates: tf.Tensor) -> dict[str, tf.Tensor]:
        statistics = tf.gather(self._network.statistics, candidates)
        scores = self._network(features, candidates, statistics, training=False)
        return {"bought": tf.sigmoid(scores["bought"]), "quantity": tf.math.expm1(tf.nn.relu(scores["quantity"]))}
