"""The servables: features, towers, index, filters and ranker in one graph, or in a graph for each of two stages.

String ids at the boundary. Every signature is a method whose inputs are the signature's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models.row_sets import contains
from twotower.serving.item_ids import ItemIds
from twotower.serving.ranking_stage import RankingStage
from twotower.serving.requests import RequestTransform, query_spec, raw_spec
from twotower.serving.reranking import Reranking
from twotower.serving.retrieval_stage import RetrievalStage
from twotower.serving.rules import Rules
from twotower.serving.stage_clock import StageClock, untimed

Tensors = dict[str, tf.Tensor]
# A stage's name and what it does, to what that returns.
Stage = Callable[[str, Callable[[], Any]], Any]
Signatures = dict[str, tf.types.experimental.ConcreteFunction]

# How many of an item's nearest are scored again by cosine, at least.
SIMILAR_CANDIDATES = 200
# What ends the name of a signature that also says how long each stage took.
TIMED = "_timed"


class Recommender(tf.Module):
    """The signatures of a recommender.

    Args:
        spec: the shop.
        transform: raw requests to features.
        towers: a loaded ``TowersExport``; None in a servable of the second stage.
        index: a loaded ``IndexExport`` over the towers' candidate embeddings; the second stage needs it for diversity.
        ranker: a loaded ``RankingExport``; None in a servable of the first stage.
        ids: the items', in the order of the index's rows; behind those of the index may stand items that only
            histories know.
        rules: what requests may ask for.
        n_items: how many items the index has; without it, all.
        trained_rows: see ``RetrievalStage``.
    """

    def __init__(
        self,
        spec: Spec,
        transform: RequestTransform,
        towers: tf.Module | None,
        index: tf.Module | None,
        ranker: tf.Module | None,
        ids: ItemIds,
        rules: Rules,
        n_items: int | None = None,
        trained_rows: tf.Variable | None = None,
    ) -> None:
        super().__init__()
        self._spec = spec
        self._transform, self._ids = transform, ids
        # Loaded modules have the functions that were saved, which no type knows.
        self._towers: Any = towers
        self._index: Any = index
        self._n_items = ids.size if n_items is None else n_items
        self._retrieval = RetrievalStage(spec, towers, index, ids, self._n_items, trained_rows, rules.filters)
        reranking = Reranking(rules.caps, rules.boosts, self._directions if rules.diversity else None)
        self._ranking = RankingStage(spec, ranker, ids, self._n_items, trained_rows, reranking)

    def signatures(self) -> Signatures:
        """The concrete functions of the whole recommender, by signature name."""
        asked = {**query_spec(self._spec), **self._ranking.specs(), **self._retrieval.specs()}
        recommend = _concrete(self._recommend, asked)
        return {
            "serving_default": recommend,
            "recommend": recommend,
            f"recommend{TIMED}": _concrete(lambda inputs: self._recommend(inputs, StageClock()), asked),
            "rank": self._rank_signature(),
            **self._retrieval_signatures(),
        }

    def retrieval_signatures(self) -> Signatures:
        """The concrete functions of the first stage as a servable of its own."""
        asked = {**query_spec(self._spec), **self._retrieval.specs()}
        candidates = _concrete(self._candidates, asked)
        return {
            "serving_default": candidates,
            "candidates": candidates,
            f"candidates{TIMED}": _concrete(lambda inputs: self._candidates(inputs, StageClock()), asked),
            **self._retrieval_signatures(),
        }

    def ranking_signatures(self) -> Signatures:
        """The concrete functions of the second stage as a servable of its own."""
        candidates = tf.TensorSpec([None, None], tf.string, "candidate_item_ids")
        k = tf.TensorSpec([], tf.int32, "k")
        asked = {**query_spec(self._spec), **self._ranking.specs(), "candidate_item_ids": candidates, "k": k}
        ordered = _concrete(self._ordered, asked)
        return {
            "serving_default": ordered,
            "order": ordered,
            f"order{TIMED}": _concrete(lambda inputs: self._ordered(inputs, StageClock()), asked),
            "rank": self._rank_signature(),
        }

    def _rank_signature(self) -> tf.types.experimental.ConcreteFunction:
        candidates = tf.TensorSpec([None, None], tf.string, "candidate_item_ids")
        return _concrete(self._rank, {**query_spec(self._spec), "candidate_item_ids": candidates})

    def _retrieval_signatures(self) -> Signatures:
        asked = self._retrieval.specs()
        similar = {"item_ids": tf.TensorSpec([None], tf.string, "item_ids"), "k": asked["k"]}
        items = {"item_id": tf.TensorSpec([None], tf.string, "item_id"), **raw_spec("item", self._spec.item_features)}
        return {
            "retrieve": _concrete(self._retrieve, {**query_spec(self._spec), **asked}),
            "similar_items": _concrete(self._similar_items, similar),
            "embed_query": _concrete(self._embed_query, query_spec(self._spec)),
            "embed_items": _concrete(self._embed_items, items),
        }

    def _recommend(self, inputs: Tensors, clock: StageClock | None = None) -> Tensors:
        stage = untimed if clock is None else clock.stage
        k, features, rows = self._found(inputs, stage)
        return self._listed(inputs, features, rows, k, stage, clock)

    def _candidates(self, inputs: Tensors, clock: StageClock | None = None) -> Tensors:
        _, _, rows = self._found(inputs, untimed if clock is None else clock.stage)
        times = {} if clock is None else clock.outputs(tf.shape(rows)[0])
        return {"item_ids": self._ids.names(rows), **times}

    def _ordered(self, inputs: Tensors, clock: StageClock | None = None) -> Tensors:
        stage = untimed if clock is None else clock.stage
        k = self._checked(inputs["k"])
        features = stage("features", lambda: self._transform.query(inputs))
        rows = self._ids.rows(inputs["candidate_item_ids"])
        return self._listed(inputs, features, rows, k, stage, clock)

    def _found(self, inputs: Tensors, stage: Stage) -> tuple[tf.Tensor, Tensors, tf.Tensor]:
        """k, the query's features, and the rows of its candidates."""
        k = self._checked(inputs["k"])
        wanted = tf.minimum(tf.maximum(k, self._spec.ranking.candidates), self._n_items)
        features = stage("features", lambda: self._transform.query(inputs))
        vectors = stage("query_tower", lambda: self._retrieval.query_vectors(features))
        rows = stage("retrieval", lambda: self._retrieval.candidates(inputs, features, vectors, wanted))
        return k, features, rows

    def _listed(
        self,
        inputs: Tensors,
        features: Tensors,
        rows: tf.Tensor,
        k: tf.Tensor,
        stage: Stage,
        clock: StageClock | None,
    ) -> Tensors:
        scores = stage("ranking", lambda: self._ranking.scores(features, rows))
        listed: Tensors = stage("rules", lambda: self._ranking.best(scores, rows, k, inputs))
        return listed if clock is None else {**listed, **clock.outputs(tf.shape(rows)[0])}

    def _retrieve(self, inputs: Tensors) -> Tensors:
        vectors = self._retrieval.query_vectors(self._transform.query(inputs))
        scores, rows = self._retrieval.best(inputs, vectors, self._checked(inputs["k"]))
        return {"item_ids": self._ids.names(rows), "scores": scores}

    def _rank(self, inputs: Tensors) -> Tensors:
        ids = inputs["candidate_item_ids"]
        scores = self._ranking.scores(self._transform.query(inputs), self._ids.rows(ids))
        given = tf.strings.length(ids) > 0
        scores = {task: tf.where(given, values, -np.inf) for task, values in scores.items()}
        return {"scores": scores["bought"], **{f"score_{task}": values for task, values in scores.items()}}

    def _similar_items(self, inputs: Tensors) -> Tensors:
        k = self._checked(inputs["k"])
        rows = self._ids.rows(inputs["item_ids"][:, tf.newaxis])
        known = rows < self._n_items
        vectors = self._directions(rows)[:, 0]
        wanted = tf.minimum(tf.maximum(k + 1, SIMILAR_CANDIDATES), self._n_items)
        # The last dimension is the items' prior, which says nothing of likeness.
        _, found = self._index.search(tf.pad(vectors, [[0, 0], [0, 1]]), wanted)
        found = tf.where(known & (found >= 0) & ~contains(rows, found), found, self._ids.size)
        cosines = tf.einsum("bd,bnd->bn", vectors, self._directions(found))
        cosines = tf.where(found < self._n_items, cosines, -np.inf)
        best, places = tf.math.top_k(cosines, tf.minimum(k, wanted))
        found = tf.where(best > -np.inf, tf.gather(found, places, batch_dims=1), self._ids.size)
        missing = [[0, 0], [0, k - tf.shape(best)[1]]]
        names = self._ids.names(tf.pad(found, missing, constant_values=self._ids.size))
        return {"item_ids": names, "scores": tf.pad(best, missing, constant_values=-np.inf)}

    def _embed_query(self, inputs: Tensors) -> Tensors:
        return {"embedding": self._retrieval.query_vectors(self._transform.query(inputs))}

    def _embed_items(self, inputs: Tensors) -> Tensors:
        return {"embedding": self._towers.candidate(self._transform.items(inputs))}

    def _directions(self, rows: tf.Tensor) -> tf.Tensor:
        """Unit vectors of rows [...], without the prior: [..., dim - 1]; of an unknown row that of some other one."""
        known = tf.where(rows < self._n_items, rows, 0)
        return tf.math.l2_normalize(self._index.embeddings(known)[..., :-1], axis=-1)

    def _checked(self, k: tf.Tensor) -> tf.Tensor:
        message = f"k: expected 1 to {self._n_items} (the items of the catalogue), found"
        with tf.control_dependencies([tf.debugging.Assert((k >= 1) & (k <= self._n_items), [message, k])]):
            return tf.identity(k)


def _concrete(
    method: Callable[[Tensors], Tensors], signature: Mapping[str, tf.TensorSpec]
) -> tf.types.experimental.ConcreteFunction:
    """A function of keyword tensors, as SavedModel signatures are."""

    def function(**inputs: tf.Tensor) -> Tensors:
        return method(inputs)

    return tf.function(function, autograph=False).get_concrete_function(**signature)
