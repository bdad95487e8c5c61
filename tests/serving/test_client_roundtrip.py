"""The client against the embedded model server in its own process, serving a SavedModel with every signature.

The model is arithmetic on its inputs, so that each answer shows which inputs arrived.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twotower_client import FeatureTypeError, HistoryEvent, Query, Recommender, UnknownFeatureError

CATALOGUE = ["apple", "bread", "cheese", "dates", "eggs", "figs"]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_SECONDS = int(NOON.timestamp())


def export_model(directory: Path, *, with_hour: bool = False) -> None:
    """Write a version: popularity 6 to 1, +10 per purchase in the history, +100 for figs in the organic store."""
    import tensorflow as tf

    query = {
        "user_id": tf.TensorSpec([None], tf.string),
        "user_age": tf.TensorSpec([None], tf.string),
        "user_visits": tf.TensorSpec([None], tf.int64),
        "user_income": tf.TensorSpec([None], tf.float32),
        "history_item_ids": tf.TensorSpec([None, None], tf.string),
        "history_times": tf.TensorSpec([None, None], tf.int64),
        "time": tf.TensorSpec([None], tf.int64),
        "context_store_id": tf.TensorSpec([None], tf.string),
    }
    if with_hour:
        query["context_hour"] = tf.TensorSpec([None], tf.int64)
    k = tf.TensorSpec([], tf.int32)
    lists = {**query, "exclude_item_ids": tf.TensorSpec([None, None], tf.string), "k": k}
    catalogue = tf.constant(CATALOGUE)
    popularity = tf.range(6, 0, -1, dtype=tf.float32)

    def all_scores(inputs: dict[str, Any]) -> Any:
        bought = tf.reduce_sum(tf.cast(inputs["history_item_ids"][..., None] == catalogue, tf.float32), axis=1)
        organic = (inputs["context_store_id"] == "organic")[:, None] & (catalogue == "figs")
        return popularity + 10 * bought + 100 * tf.cast(organic, tf.float32)

    def tasks(inputs: dict[str, Any], shape: Any) -> dict[str, Any]:
        since = inputs["time"] - tf.reduce_max(tf.pad(inputs["history_times"], [[0, 0], [0, 1]]), axis=1)
        columns = {
            "young": tf.cast(inputs["user_age"] == "25-34", tf.float32),
            "visits": tf.cast(inputs["user_visits"], tf.float32),
            "income": inputs["user_income"],
            "since": tf.cast(since, tf.float32),
        }
        return {f"score_{name}": tf.broadcast_to(column[:, None], shape) for name, column in columns.items()}

    def best(scores: Any, k: Any) -> dict[str, Any]:
        found = tf.math.top_k(scores, tf.minimum(k, len(CATALOGUE)))
        ids = tf.where(found.values == -math.inf, "", tf.gather(catalogue, found.indices))
        padding = [[0, 0], [0, tf.maximum(k - len(CATALOGUE), 0)]]
        return {
            "item_ids": tf.pad(ids, padding, constant_values=""),
            "scores": tf.pad(found.values, padding, constant_values=-math.inf),
        }

    def retrieve(**inputs: Any) -> dict[str, Any]:
        excluded = tf.reduce_any(inputs["exclude_item_ids"][..., None] == catalogue, axis=1)
        return best(tf.where(excluded, -math.inf, all_scores(inputs)), inputs["k"])

    def recommend(**inputs: Any) -> dict[str, Any]:
        found = retrieve(**inputs)
        return {**found, **tasks(inputs, tf.shape(found["scores"]))}

    def rank(**inputs: Any) -> dict[str, Any]:
        known = inputs["candidate_item_ids"][..., None] == catalogue
        picked = tf.reduce_sum(tf.where(known, all_scores(inputs)[:, None, :], 0.0), axis=-1)
        scores = tf.where(tf.reduce_any(known, axis=-1), picked, -math.inf)
        return {"scores": scores, **tasks(inputs, tf.shape(scores))}

    def similar_items(item_ids: Any, k: Any) -> dict[str, Any]:
        place = tf.argmax(item_ids[:, None] == catalogue, axis=1, output_type=tf.int32)
        return best(-tf.cast(tf.abs(tf.range(len(CATALOGUE)) - place[:, None]), tf.float32), k)

    def embed_query(**inputs: Any) -> dict[str, Any]:
        length = tf.fill(tf.shape(inputs["time"]), tf.cast(tf.shape(inputs["history_item_ids"])[1], tf.float32))
        return {"embedding": tf.stack([length, tf.cast(inputs["user_visits"], tf.float32)], axis=1)}

    def embed_items(item_id: Any, item_price: Any, item_brand: Any) -> dict[str, Any]:
        parts = [tf.cast(item_id == "apple", tf.float32), item_price, tf.cast(item_brand == "acme", tf.float32)]
        return {"embedding": tf.stack(parts, axis=1)}

    def signature(function: Any, inputs: dict[str, Any]) -> Any:
        named = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in inputs.items()}
        return tf.function(function).get_concrete_function(**named)

    strings, floats = tf.TensorSpec([None], tf.string), tf.TensorSpec([None], tf.float32)
    served = signature(recommend, lists)
    signatures = {
        "serving_default": served,
        "recommend": served,
        "retrieve": signature(retrieve, lists),
        "rank": signature(rank, {**query, "candidate_item_ids": tf.TensorSpec([None, None], tf.string)}),
        "similar_items": signature(similar_items, {"item_ids": strings, "k": k}),
        "embed_query": signature(embed_query, query),
        "embed_items": signature(embed_items, {"item_id": strings, "item_price": floats, "item_brand": strings}),
    }
    unfinished = directory.with_name(f"unfinished-{directory.name}")
    tf.saved_model.save(tf.Module(), str(unfinished), signatures=signatures)
    unfinished.rename(directory)


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("recommender")
    export_model(path / "1")
    return path


@pytest.fixture(scope="module")
def client(base_path: Path) -> Iterator[Recommender]:
    flags = ["--port", "0", "--model_name", "recommender", "--model_base_path", str(base_path)]
    command = [sys.executable, "-m", "twotower.serving.server.main", *flags]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        announced = server.stdout.readline()  # "serving recommender version 1 on 0.0.0.0:PORT"
        try:
            with Recommender(f"localhost:{announced.rsplit(':', 1)[1].strip()}", timeout=10.0) as recommender:
                recommender.wait_until_ready(60.0)
                yield recommender
        finally:
            server.terminate()


def ids(result: Any) -> list[str]:
    return [item.item_id for item in result]


def test_a_bare_query_gets_the_popular_items(client: Recommender) -> None:
    result = client.recommend(k=3)
    assert [(item.item_id, item.score) for item in result] == [("apple", 6.0), ("bread", 5.0), ("cheese", 4.0)]
    scores = result.items[0].scores
    assert scores.keys() == {"young", "visits", "income", "since"}
    assert (scores["young"], scores["visits"], scores["since"]) == (0.0, 0.0, 0.0)
    assert math.isnan(scores["income"])  # a float that was left out is "not known"
    assert result.model_version == 1


def test_every_argument_of_recommend_arrives(client: Recommender) -> None:
    history = [HistoryEvent("dates", NOON_SECONDS - 600), ("dates", datetime(2026, 3, 1, 11, 59, tzinfo=UTC))]
    result = client.recommend(
        "1364",
        history,
        k=3,
        exclude=["apple"],
        user={"age": "25-34", "visits": 7, "income": 2.5},
        context={"store_id": "organic"},
        time=NOON,
    )
    assert [(item.item_id, item.score) for item in result] == [("figs", 101.0), ("dates", 23.0), ("bread", 5.0)]
    assert dict(result.items[2].scores) == {"young": 1.0, "visits": 7.0, "income": 2.5, "since": 60.0}


def test_excluded_items_shorten_the_list(client: Recommender) -> None:
    assert ids(client.recommend(k=10, exclude=["apple", "eggs", "unheard-of"])) == ["bread", "cheese", "dates", "figs"]
    assert ids(client.recommend(k=10, exclude=CATALOGUE)) == []


def test_a_batch_answers_each_query_as_alone(client: Recommender) -> None:
    queries = [
        Query("a", history=[("eggs", NOON_SECONDS)] * 3, exclude=["bread"]),
        Query("b", user={"visits": 2}, time=NOON_SECONDS),
        Query(context={"store_id": "organic"}, user={"age": "25-34", "visits": None}),
    ]
    together = client.recommend_many(queries, k=4, exclude=["apple"])
    assert [ids(result) for result in together] == [
        ["eggs", "cheese", "dates", "figs"],
        ["bread", "cheese", "dates", "eggs"],
        ["figs", "bread", "cheese", "dates"],
    ]
    for query, result in zip(queries, together, strict=True):
        (alone,) = client.recommend_many([query], k=4, exclude=["apple"])
        np.testing.assert_equal([tuple(item) for item in alone], [tuple(item) for item in result])


def test_retrieve_has_no_task_scores(client: Recommender) -> None:
    result = client.retrieve("1364", [("figs", NOON_SECONDS)], k=2)
    assert [(item.item_id, item.score, dict(item.scores)) for item in result] == [
        ("figs", 11.0, {}),
        ("apple", 6.0, {}),
    ]


def test_rank_orders_the_candidates(client: Recommender) -> None:
    candidates = ["figs", "unheard-of", "bread", "bread"]
    result = client.rank("1364", candidates=candidates, user={"income": 1.5})
    assert [(item.item_id, item.score) for item in result] == [
        ("bread", 5.0),
        ("bread", 5.0),
        ("figs", 1.0),
        ("unheard-of", -math.inf),
    ]
    assert result.items[0].scores["income"] == 1.5


def test_similar_items(client: Recommender) -> None:
    assert [(item.item_id, item.score) for item in client.similar_items("apple", k=2)] == [("apple", 0), ("bread", -1)]


def test_embeddings(client: Recommender) -> None:
    query = client.embed_query("1364", [("a", 1), ("b", 2)], user={"visits": 9})
    assert query.values.tolist() == [2.0, 9.0]
    assert query.values.dtype == np.float32
    items = client.embed_items([{"item_id": "apple", "price": 1.5}, {"brand": "acme", "price": 2}])
    assert items.values.tolist() == [[1.0, 1.5, 0.0], [0.0, 2.0, 1.0]]


def test_names_and_types_are_checked_against_the_served_model(client: Recommender) -> None:
    with pytest.raises(UnknownFeatureError) as unknown:
        client.recommend("1364", user={"incom": 3.0})
    assert unknown.value.suggestion == "income"
    assert unknown.value.known == ("age", "income", "visits")
    with pytest.raises(FeatureTypeError, match="user feature 'income': found str '3', the model expects float"):
        client.recommend("1364", user={"income": "3"})


def test_status(client: Recommender) -> None:
    assert [(version.version, version.state) for version in client.status()] == [(1, "AVAILABLE")]


def test_a_new_version_with_one_more_input_is_taken_without_an_error(client: Recommender, base_path: Path) -> None:
    assert client.recommend(k=1).model_version == 1
    export_model(base_path / "2", with_hour=True)
    deadline = time.monotonic() + 60
    while (result := client.recommend("1364", k=2)).model_version == 1:
        assert time.monotonic() < deadline, "version 2 was not served within 60 s"
        time.sleep(0.02)
    assert ids(result) == ["apple", "bread"]
    assert ids(client.recommend("1364", k=2, context={"hour": 12})) == ["apple", "bread"]
