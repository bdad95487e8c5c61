"""A recommender whose ranker has one task: `recommend` and `rank` answer by it, and offer no other."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from test_recommender import REQUESTS, Answer, check_list, filled
from tiny_shop import ITEMS, SPEC, SPLIT, Shop

from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.contract import TrainingData
from twotower.models.exports import RankingExport, TowersExport
from twotower.models.queries import Queries
from twotower.models.rankers import fit as fit_ranker
from twotower.models.ranking_contract import RankingData
from twotower.models.retrievers import fit as fit_retrieval
from twotower.models.transformed import Transformed
from twotower.serving import servable
from twotower.serving.index import build_index
from twotower.serving.index.export import IndexExport
from twotower.serving.item_ids import ItemIds
from twotower.serving.recommender import Recommender
from twotower.serving.requests import RequestTransform
from twotower.serving.rules import NO_RULES

N_ITEMS = len(ITEMS)


@pytest.fixture(scope="module")
def signatures(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """NeuMF over popularity, composed, saved and loaded again."""
    folder = tmp_path_factory.mktemp("neumf")
    sections = {
        "retrieval": {"model": "popularity"},
        "ranking": {"model": "neumf", "candidates": 4, "history_length": 5, "factors": 4, "epochs": 3},
    }
    spec = Spec.model_validate(SPEC.model_dump(by_alias=True) | sections)
    data = Transformed(spec, str(shop.graph), str(shop.examples))
    catalogue, train = data.catalogue(), data.users("train")
    towers = fit_retrieval(TrainingData(spec, catalogue, train, data.n_users, folder))
    export = TowersExport(towers, data.query_encodings, data.item_encodings, spec.retrieval.history_length)
    tf.saved_model.save(export, str(folder / "towers"))
    queries = Queries(spec, train, N_ITEMS)
    retriever = TowerRetriever(str(folder / "towers"), catalogue, queries)
    ranker = fit_ranker(RankingData(spec, catalogue, train, data.n_users, queries, retriever, folder))
    tf.saved_model.save(RankingExport(ranker, data.query_encodings), str(folder / "ranker"))
    tf.saved_model.save(IndexExport(build_index(retriever.items, "exact", seed=1)), str(folder / "index"))
    ids = ItemIds(data.item_ids_file)
    transform = RequestTransform(
        spec, data.output.transform_features_layer(), data.query_encodings, data.item_encodings, N_ITEMS, ids, SPLIT
    )
    towers, index, ranker = (tf.saved_model.load(str(folder / name)) for name in ("towers", "index", "ranker"))
    (folder / "saved").mkdir()
    recommender = Recommender(spec, transform, towers, index, ranker, ids, NO_RULES)
    servable.save(recommender, recommender.signatures(), folder / "saved", {"name": "tiny"})
    assert (folder / "curve.json").is_file()
    return dict(servable.load(folder / "saved").signatures)


def ask(signatures: dict[str, Any], signature: str, **inputs: Any) -> Answer:
    return {name: value.numpy() for name, value in signatures[signature](**inputs).items()}


def test_lists_are_ordered_by_the_one_task_there_is(signatures: dict[str, Any]) -> None:
    answer = ask(signatures, "recommend", **filled(signatures["recommend"], REQUESTS, 4))
    assert set(answer) == {"item_ids", "scores", "score_bought"}
    check_list(answer, 4)
    np.testing.assert_array_equal(answer["scores"], answer["score_bought"])
    listed = answer["scores"][answer["item_ids"] != b""]
    assert ((listed > 0) & (listed < 1)).all()


def test_rank_gives_a_candidate_the_score_of_the_list(signatures: dict[str, Any]) -> None:
    listed = ask(signatures, "recommend", **filled(signatures["recommend"], REQUESTS, 4))
    inputs = filled(signatures["rank"], REQUESTS, 1) | {"candidate_item_ids": tf.constant(listed["item_ids"])}
    ranked = ask(signatures, "rank", **inputs)
    assert set(ranked) == {"scores", "score_bought"}
    np.testing.assert_allclose(ranked["scores"], listed["scores"], atol=1e-6)
