"""The recommender servable: features, towers, index, filters and ranker in one graph, string ids at its boundary."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models.row_sets import contains
from twotower.serving.requests import RequestTransform, query_spec, raw_spec

Tensors = dict[str, tf.Tensor]

# How many of an item's nearest are scored again by cosine, at least.
SIMILAR_CANDIDATES = 200


class Recommender(tf.Module):
    """The signatures of a composed recommender.

    Args:
        spec: the shop.
        transform: raw requests to features.
        towers: a loaded ``TowersExport``.
        index: a loaded ``IndexExport`` over the towers' candidate embeddings.
        ranker: a loaded ``RankingExport``.
        ids: [n] the catalogue's ids in vocabulary order.
    """

    def __init__(
        self,
        spec: Spec,
        transform: RequestTransform,
        towers: tf.Module,
        index: tf.Module,
        ranker: tf.Module,
        ids: npt.NDArray[np.object_],
    ) -> None:
        super().__init__()
        self._spec = spec
        self._transform, self._towers, self._index, self._ranker = transform, towers, index, ranker
        self._n_items = len(ids)
        # Row n is the empty id of padding.
        self._ids = tf.Variable(np.append(ids, b""), trainable=False, name="item_ids", dtype=tf.string)

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        """The concrete functions to save, by signature name."""
        query = query_spec(self._spec)
        asked = {
            **query,
            "exclude_item_ids": tf.TensorSpec([None, None], tf.string, "exclude_item_ids"),
            "k": tf.TensorSpec([], tf.int32, "k"),
        }
        ranked = {**query, "candidate_item_ids": tf.TensorSpec([None, None], tf.string, "candidate_item_ids")}
        similar = {"item_ids": tf.TensorSpec([None], tf.string, "item_ids"), "k": asked["k"]}
        items = {"item_id": tf.TensorSpec([None], tf.string, "item_id"), **raw_spec("item", self._spec.item_features)}
        recommend = _concrete(self._recommend, asked)
        return {
            "serving_default": recommend,
            "recommend": recommend,
            "retrieve": _concrete(self._retrieve, asked),
            "rank": _concrete(self._rank, ranked),
            "similar_items": _concrete(self._similar_items, similar),
            "embed_query": _concrete(self._embed_query, query),
            "embed_items": _concrete(self._embed_items, items),
        }

    def _recommend(self, inputs: Tensors) -> Tensors:
        k = self._checked(inputs["k"])
        features = self._transform.query(inputs)
        excluded = self._transform.item_rows(inputs["exclude_item_ids"])
        limit = tf.maximum(k, self._spec.ranking.candidates)
        wanted = tf.minimum(limit + tf.shape(excluded)[1], self._n_items)
        _, retrieved = self._index.search(self._query_vectors(features), wanted)
        retrieved = self._first(self._padded(retrieved), excluded, limit)
        own = features["history_item_id"][:, : self._spec.ranking.history_length]
        candidates = self._distinct(tf.concat([retrieved, own], axis=1), excluded)
        scores = self._scores(features, candidates)
        bought = tf.where(candidates < self._n_items, scores["bought"], -np.inf)
        best, places = tf.math.top_k(bought, tf.minimum(k, tf.shape(bought)[1]))
        missing = [[0, 0], [0, k - tf.shape(best)[1]]]
        rows = tf.pad(tf.gather(candidates, places, batch_dims=1), missing, constant_values=self._n_items)
        outputs = {"item_ids": self._names(rows), "scores": tf.pad(best, missing, constant_values=-np.inf)}
        for task, values in scores.items():
            chosen = tf.where(best > -np.inf, tf.gather(values, places, batch_dims=1), -np.inf)
            outputs[f"score_{task}"] = tf.pad(chosen, missing, constant_values=-np.inf)
        return outputs

    def _retrieve(self, inputs: Tensors) -> Tensors:
        k = self._checked(inputs["k"])
        excluded = self._transform.item_rows(inputs["exclude_item_ids"])
        vectors = self._query_vectors(self._transform.query(inputs))
        scores, rows = self._index.search(vectors, tf.minimum(k + tf.shape(excluded)[1], self._n_items))
        return self._best(scores, self._padded(rows), excluded, k)

    def _rank(self, inputs: Tensors) -> Tensors:
        ids = inputs["candidate_item_ids"]
        scores = self._scores(self._transform.query(inputs), self._transform.item_rows(ids))
        given = tf.strings.length(ids) > 0
        scores = {task: tf.where(given, values, -np.inf) for task, values in scores.items()}
        return {"scores": scores["bought"], **{f"score_{task}": values for task, values in scores.items()}}

    def _similar_items(self, inputs: Tensors) -> Tensors:
        k = self._checked(inputs["k"])
        rows = self._transform.item_rows(inputs["item_ids"][:, tf.newaxis])
        known = rows < self._n_items
        vectors = self._directions(tf.where(known, rows, 0))[:, 0]
        wanted = tf.minimum(tf.maximum(k + 1, SIMILAR_CANDIDATES), self._n_items)
        # The last dimension is the items' prior, which says nothing of likeness.
        _, found = self._index.search(tf.pad(vectors, [[0, 0], [0, 1]]), wanted)
        found = tf.where(known, self._padded(found), self._n_items)
        cosines = tf.einsum("bd,bnd->bn", vectors, self._directions(tf.where(found < self._n_items, found, 0)))
        return self._best(cosines, found, rows, k)

    def _embed_query(self, inputs: Tensors) -> Tensors:
        return {"embedding": self._query_vectors(self._transform.query(inputs))}

    def _embed_items(self, inputs: Tensors) -> Tensors:
        return {"embedding": self._towers.candidate(self._transform.items(inputs))}

    def _query_vectors(self, features: Tensors) -> tf.Tensor:
        length = self._spec.retrieval.history_length
        history = {name: features[name][:, :length] for name in ("history_item_id", "history_age")}
        return self._towers.query({**features, **history})

    def _scores(self, features: Tensors, candidates: tf.Tensor) -> Tensors:
        length = self._spec.ranking.history_length
        history = {name: features[name][:, :length] for name in ("history_item_id", "history_age")}
        scores: Tensors = self._ranker.score({**features, **history}, candidates)
        return scores

    def _directions(self, rows: tf.Tensor) -> tf.Tensor:
        """Unit vectors of catalogue rows [...], without the prior: [..., dim - 1]."""
        return tf.math.l2_normalize(self._index.embeddings(rows)[..., :-1], axis=-1)

    def _checked(self, k: tf.Tensor) -> tf.Tensor:
        message = f"k: expected 1 to {self._n_items} (the items of the catalogue), found"
        with tf.control_dependencies([tf.debugging.Assert((k >= 1) & (k <= self._n_items), [message, k])]):
            return tf.identity(k)

    def _padded(self, rows: tf.Tensor) -> tf.Tensor:
        """The index pads with -1; here padding is the catalogue's size."""
        return tf.where(rows < 0, self._n_items, rows)

    def _first(self, rows: tf.Tensor, excluded: tf.Tensor, limit: tf.Tensor) -> tf.Tensor:
        """The first ``limit`` of [b, n] rows that are not excluded; the others become padding.

        Without the limit a row's candidates would depend on how many items its neighbours in the batch exclude.
        """
        allowed = (rows < self._n_items) & ~contains(excluded, rows)
        return tf.where(allowed & (tf.cumsum(tf.cast(allowed, tf.int32), axis=1) <= limit), rows, self._n_items)

    def _distinct(self, rows: tf.Tensor, excluded: tf.Tensor) -> tf.Tensor:
        """[b, n] rows, each once, without the excluded [b, e], to [b, m] padded with the catalogue's size."""
        rows = tf.sort(rows, axis=1)
        repeated = tf.pad(rows[:, 1:] == rows[:, :-1], [[0, 0], [1, 0]])
        keep = (rows < self._n_items) & ~repeated & ~contains(excluded, rows)
        return tf.ragged.boolean_mask(rows, keep).to_tensor(self._n_items)

    def _best(self, scores: tf.Tensor, rows: tf.Tensor, excluded: tf.Tensor, k: tf.Tensor) -> Tensors:
        scores = tf.where((rows < self._n_items) & ~contains(excluded, rows), scores, -np.inf)
        best, places = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))
        found = tf.where(best > -np.inf, tf.gather(rows, places, batch_dims=1), self._n_items)
        missing = [[0, 0], [0, k - tf.shape(best)[1]]]
        names = self._names(tf.pad(found, missing, constant_values=self._n_items))
        return {"item_ids": names, "scores": tf.pad(best, missing, constant_values=-np.inf)}

    def _names(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.gather(self._ids.read_value(), rows)


def _concrete(
    method: Callable[[Tensors], Tensors], signature: Mapping[str, tf.TensorSpec]
) -> tf.types.experimental.ConcreteFunction:
    """A function of keyword tensors, as SavedModel signatures are."""

    def function(**inputs: tf.Tensor) -> Tensors:
        return method(inputs)

    return tf.function(function).get_concrete_function(**signature)
