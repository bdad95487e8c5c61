"""Other retrieval models in the recommender: `recommend`, `retrieve` and `similar_items` on the tiny shop."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from test_recommender import REQUESTS, U1, Answer, check_list, filled
from tiny_shop import ITEMS, SPEC, SPLIT, USERS, Shop

from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.contract import TrainingData
from twotower.models.exports import RankingExport, TowersExport
from twotower.models.queries import Queries
from twotower.models.ranking_fit import build_ranker
from twotower.models.retrievers import fit
from twotower.models.transformed import Transformed
from twotower.serving import servable
from twotower.serving.index import build_index
from twotower.serving.index.export import IndexExport
from twotower.serving.item_ids import ItemIds
from twotower.serving.recommender import Recommender
from twotower.serving.requests import RequestTransform
from twotower.serving.rules import NO_RULES

N_ITEMS = len(ITEMS)
MODELS: dict[str, dict[str, Any]] = {
    "als": {"factors": 3},
    "ease": {"regularization": 1.0, "max_items": 8},
}


class Composed:
    """A fitted model, composed, saved and loaded again."""

    def __init__(self, model: str, shop: Shop, folder: Path) -> None:
        spec = Spec.model_validate(SPEC.model_dump(by_alias=True) | {"retrieval": {"model": model, **MODELS[model]}})
        data = Transformed(spec, str(shop.graph), str(shop.examples))
        catalogue, train = data.catalogue(), data.users("train")
        towers = fit(TrainingData(spec, catalogue, train, data.n_users, folder))
        ranking = RankingExport(build_ranker(spec, catalogue, train), data.query_encodings)
        ranking.score.get_concrete_function()  # creates the weights
        length = spec.retrieval.history_length
        export = TowersExport(towers, data.query_encodings, data.item_encodings, length)
        tf.saved_model.save(export, str(folder / "towers"))
        tf.saved_model.save(ranking, str(folder / "ranker"))
        retriever = TowerRetriever(str(folder / "towers"), catalogue, Queries(spec, train, N_ITEMS))
        index = build_index(retriever.items, "portable", seed=1, exact_below=0)
        tf.saved_model.save(IndexExport(index), str(folder / "index"))
        ids = ItemIds(data.item_ids_file)
        transform = RequestTransform(
            spec, data.output.transform_features_layer(), data.query_encodings, data.item_encodings, N_ITEMS, ids, SPLIT
        )
        saved = {name: tf.saved_model.load(str(folder / name)) for name in ("towers", "index", "ranker")}
        recommender = Recommender(spec, transform, saved["towers"], saved["index"], saved["ranker"], ids, NO_RULES)
        (folder / "saved").mkdir()
        servable.save(recommender, recommender.signatures(), folder / "saved", {"name": "tiny"})
        self.signatures = servable.load(folder / "saved").signatures
        self.items = retriever.items
        self.scores = retriever.embed_latest(np.arange(len(USERS)), SPLIT) @ retriever.items.T
        self.row = {item: row for row, item in enumerate(data.item_ids())}

    def ask(self, signature: str, rows: list[dict[str, Any]], k: int) -> Answer:
        inputs = filled(self.signatures[signature], rows, k)
        return {name: value.numpy() for name, value in self.signatures[signature](**inputs).items()}


@pytest.fixture(scope="module", params=MODELS)
def composed(request: pytest.FixtureRequest, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    return Composed(request.param, shop, tmp_path_factory.mktemp(request.param))


def test_retrieve_is_what_the_towers_say_offline(composed: Composed) -> None:
    answer = composed.ask("retrieve", REQUESTS, N_ITEMS)
    check_list(answer, N_ITEMS)
    for ids, scores, exact in zip(answer["item_ids"], answer["scores"], composed.scores, strict=True):
        # By their scores: items that nobody bought may tie.
        np.testing.assert_allclose(scores, -np.sort(-exact), atol=1e-5)
        np.testing.assert_allclose(scores, exact[[composed.row[item] for item in ids]], atol=1e-5)


def test_an_unknown_user_is_served_by_history(composed: Composed) -> None:
    unknown = {name: value for name, value in U1.items() if name.startswith("history")} | {"user_id": b"nobody"}
    found, expected = (composed.ask("retrieve", [row], 6) for row in (unknown, U1))
    assert found["item_ids"].tolist() == expected["item_ids"].tolist()
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
    other = {"history_item_ids": [b"i8"], "history_times": U1["history_times"][:1]}
    assert composed.ask("retrieve", [unknown | other], 6)["item_ids"].tolist() != expected["item_ids"].tolist()


def test_what_was_never_bought_is_retrieved_last(composed: Composed) -> None:
    # i1 to i6 are u1's own; nobody bought the last.
    (ids,) = composed.ask("retrieve", [U1], N_ITEMS)["item_ids"].tolist()
    assert ids.index(b"bare") >= 6
    (ids,) = composed.ask("retrieve", [{}], N_ITEMS)["item_ids"].tolist()
    assert ids.index(b"bare") > 0


def test_recommend_ranks_retrieved_and_own_items(composed: Composed) -> None:
    answer = composed.ask("recommend", REQUESTS, N_ITEMS)
    check_list(answer, N_ITEMS)
    k = SPEC.ranking.candidates
    retrieved = composed.ask("retrieve", REQUESTS, k)["item_ids"]
    for ids, best, user in zip(answer["item_ids"], retrieved, USERS, strict=True):
        own = user["history_item_id"][-SPEC.ranking.history_length :]
        # All N_ITEMS were asked for, so that retrieval gives them all, its own first k among them.
        assert {*best.tolist(), *own} - {b"gone"} <= set(ids.tolist())


def test_similar_items_are_the_nearest_by_cosine_without_the_item_itself(composed: Composed) -> None:
    vectors = composed.items[:, :-1]
    lengths = np.linalg.norm(vectors, axis=1)
    bought = [item for item, row in composed.row.items() if lengths[row] > 1e-6]
    assert len(bought) >= 8
    answer = composed.ask("similar_items", [{"item_ids": item} for item in bought], 4)
    check_list(answer, 4)
    unit = vectors / np.maximum(lengths, 1e-6)[:, np.newaxis]
    for item, ids, scores in zip(bought, answer["item_ids"], answer["scores"], strict=True):
        assert item not in ids
        cosines = unit @ unit[composed.row[item]]
        np.testing.assert_allclose(scores, cosines[[composed.row[other] for other in ids]], atol=1e-5)
        np.testing.assert_allclose(scores, -np.sort(-np.delete(cosines, composed.row[item]))[:4], atol=1e-5)
