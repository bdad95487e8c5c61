"""Two stages as servables of their own: the same lists as the composed recommender, with rules, and their times."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from server_harness import ServerProcess
from test_recommender import REQUESTS, Answer, Composed, compose, filled, same
from test_rules import RULED, raw
from tiny_shop import ITEMS, SPLIT, Shop

from twotower.pipeline.servable_calls import call, inputs
from twotower.serving import servable
from twotower.serving.item_ids import ItemIds
from twotower.serving.recommender import Recommender
from twotower.serving.requests import RequestTransform
from twotower.serving.rules import Rules
from twotower_client import Query, TwoStageRecommender
from twotower_client import Rules as Asked

N_ITEMS = len(ITEMS)
ROWS: list[dict[str, Any]] = [
    {},
    {"filter_brand": [b"odd"], "exclude_item_ids": [b"i3"]},
    {"cap_brand": 1},
    {"diversity": 0.5, "above_price": 1.0},
    {"boost_brand": [b"even"], "boost_brand_factors": [2.0], "allowed_item_ids": [b"i0", b"i1", b"bare"]},
]


@pytest.fixture(scope="module")
def composed(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    folder = tmp_path_factory.mktemp("two_stage")
    return compose(shop, folder, RULED, lambda ids: Rules.of(RULED, raw(ids), ids, N_ITEMS))


@pytest.fixture(scope="module")
def folders(shop: Shop, composed: Composed) -> list[Path]:
    """The stages as the pipeline makes them, saved as a version of two models."""
    folder, data = composed.folder.parent, shop.data()
    towers, index, ranker = (tf.saved_model.load(str(folder / name)) for name in ("towers", "index", "ranker"))
    ids, layer = ItemIds(data.item_ids_file), data.output.transform_features_layer()
    transform = RequestTransform(RULED, layer, data.query_encodings, data.item_encodings, N_ITEMS, ids, SPLIT)
    rules = Rules.of(RULED, raw(ids), ids, N_ITEMS)
    first = Recommender(RULED, transform, towers, index, None, ids, Rules(rules.filters, {}, {}, False))
    second = Recommender(RULED, transform, None, index, ranker, ids, replace(rules, filters=()))
    saved = []
    for name, made, signatures in (
        ("shop_retrieval", first, first.retrieval_signatures()),
        ("shop_ranking", second, second.ranking_signatures()),
    ):
        saved.append(folder / name / "7")
        saved[-1].mkdir(parents=True)
        servable.save(made, signatures, saved[-1], {"name": "tiny"})
    return saved


@pytest.fixture(scope="module")
def stages(folders: list[Path]) -> list[Any]:
    return [servable.load(folder) for folder in folders]


def ask(stages: list[Any], rows: list[dict[str, Any]], k: int) -> Answer:
    class Both:
        structured_input_signature: tuple[tuple[()], Mapping[str, Any]] = ((), inputs(stages, "recommend"))

    answer = call(stages, "recommend", filled(Both, rows, k))
    return {name: value.numpy() for name, value in answer.items()}


@pytest.mark.parametrize("k", [1, 4, N_ITEMS])
def test_the_lists_are_those_of_the_composed_recommender(composed: Composed, stages: list[Any], k: int) -> None:
    rows = [{**request, **rule} for request, rule in zip(REQUESTS, ROWS, strict=True)]
    same(ask(stages, rows, k), composed.ask("recommend", rows, k))


def test_each_stage_has_its_own_signatures(stages: list[Any]) -> None:
    first, second = ({*stage.signatures} - {"serving_default"} for stage in stages)
    assert first == {"candidates", "candidates_timed", "retrieve", "similar_items", "embed_query", "embed_items"}
    assert second == {"order", "order_timed", "rank"}


def test_times_come_a_row_and_change_no_list(composed: Composed, stages: list[Any]) -> None:
    timed, plain = (composed.ask(name, REQUESTS, 4) for name in ("recommend_timed", "recommend"))
    times = {name: timed.pop(name) for name in list(timed) if name.startswith("ms_")}
    same(timed, plain)
    parts = ["features", "query_tower", "retrieval", "ranking", "rules"]
    assert set(times) == {f"ms_{name}" for name in (*parts, "all")}
    for values in times.values():
        assert values.shape == (len(REQUESTS),)
        assert (values >= 0).all()
    np.testing.assert_allclose(sum(times[f"ms_{name}"] for name in parts), times["ms_all"], rtol=1e-3)
    assert times["ms_all"][0] > 0
    specs = stages[0].signatures["candidates_timed"].structured_outputs
    assert set(specs) == {"item_ids", "ms_features", "ms_query_tower", "ms_retrieval", "ms_all"}


def test_the_client_gets_the_same_lists_from_a_server(composed: Composed, folders: list[Path], tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    models = [
        f'config {{ name: "{path.parent.name}" base_path: "{path.parent}" model_platform: "tensorflow" }}'
        for path in folders
    ]
    config.write_text(f"model_config_list {{ {' '.join(models)} }}")
    rules = [Asked(filters={"brand": ["odd"]}), Asked(caps={"brand": 1}), Asked(boosts={"brand": {"even": 2.0}})]
    rows: list[dict[str, Any]] = [
        {"filter_brand": [b"odd"]},
        {"cap_brand": 1},
        {"boost_brand": [b"even"], "boost_brand_factors": [2.0]},
    ]
    expected = composed.ask("recommend", rows, 4)
    with (
        ServerProcess(None, f"--model_config_file={config}") as server,
        TwoStageRecommender(f"localhost:{server.port}", model_name="shop", timeout=60) as client,
    ):
        assert [(status.version, status.state) for status in client.wait_until_ready(60)] == [(7, "AVAILABLE")]
        answers = client.recommend_many([Query(rules=given) for given in rules], 4, timings=True)
        ranked = client.rank(candidates=["i0", "bare"])
    assert {item.item_id for item in ranked} == {"i0", "bare"}
    for row, answer in enumerate(answers):
        listed = [item_id.decode() for item_id in expected["item_ids"][row] if item_id]
        assert [item.item_id for item in answer] == listed
        np.testing.assert_allclose([item.score for item in answer], expected["scores"][row][: len(listed)], rtol=1e-4)
        assert answer.model_version == 7
        assert set(answer.timings) == {"features", "query_tower", "retrieval", "ranking", "rules", "all"}
