"""Saved towers and rankers answer as they did before, and so does everything that asks them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tiny_shop import SPEC, SPLIT, Shop

from twotower.features.encoding import Encoding
from twotower.models.candidates import TowerRetriever, embed_catalogue
from twotower.models.contract import Towers
from twotower.models.exports import RankingExport, TowersExport, feature_signature, query_signature
from twotower.models.queries import Queries
from twotower.models.ranking_fit import build_ranker
from twotower.models.retrieval import build_towers
from twotower.models.tables import Catalogue, Users
from twotower.models.training_events import TrainingEvents, two_tower
from twotower.models.transformed import Transformed


def test_signatures_say_each_form() -> None:
    encodings = [
        Encoding("a", "index", 3),
        Encoding("b", "indices", 3),
        Encoding("c", "number", 1),
        Encoding("d", "vector", 7),
    ]
    found = {name: (spec.dtype, spec.shape.as_list()) for name, spec in feature_signature(encodings).items()}
    assert found == {
        "a": (tf.int64, [None]),
        "b": (tf.int64, [None, None]),
        "c": (tf.float32, [None]),
        "d": (tf.float32, [None, 7]),
    }
    assert set(query_signature(encodings)) == {"user_id", "history_item_id", "history_age", "a", "b", "c", "d"}


@pytest.fixture(scope="module")
def data(shop: Shop) -> Transformed:
    return shop.data()


@pytest.fixture(scope="module")
def catalogue(data: Transformed) -> Catalogue:
    return data.catalogue()


@pytest.fixture(scope="module")
def train(data: Transformed) -> Users:
    return data.users("train")


def queries_of(train: Users, n_items: int, length: int) -> dict[str, Any]:
    found = Queries(SPEC, train, n_items).features(
        tf.range(len(train), dtype=tf.int64),
        tf.constant(train.history.offsets[1:]),
        tf.fill([len(train)], tf.constant(SPLIT, tf.int64)),
        length,
    )
    return dict(found)


def test_towers_survive_saving(data: Transformed, catalogue: Catalogue, train: Users, tmp_path: Path) -> None:
    n_items, length = len(catalogue), SPEC.retrieval.history_length
    events = TrainingEvents.choose(SPEC, train, n_items)
    query, candidate = build_towers(SPEC, catalogue, train, data.n_users, events)
    export = TowersExport(Towers(query, candidate), data.query_encodings, data.item_encodings, length)
    tf.saved_model.save(export, str(tmp_path))
    features = queries_of(train, n_items, length)
    retriever = TowerRetriever(str(tmp_path), catalogue, Queries(SPEC, train, n_items))
    vectors, items = query(features).numpy(), embed_catalogue(export, catalogue)
    width = two_tower(SPEC).embedding_dim + two_tower(SPEC).graph_factors
    assert (vectors.shape, items.shape) == ((len(train), width), (n_items, width))
    np.testing.assert_allclose(retriever.items, items, atol=1e-6)
    rows, moments = np.arange(len(train)), np.full(len(train), SPLIT)
    cuts = train.history.offsets[1:]
    np.testing.assert_allclose(retriever.embed(rows, cuts, moments), vectors, atol=1e-6)
    expected = np.argsort(-(vectors @ items.T), axis=1)
    best = retriever.best(4)(rows, cuts, moments)
    assert best.dtype == np.int32
    assert best.tolist() == expected[:, :4].tolist()
    assert retriever.best(99)(rows, cuts, moments).tolist() == expected.tolist()  # no more than there are


def test_rankers_survive_saving(data: Transformed, catalogue: Catalogue, train: Users, tmp_path: Path) -> None:
    n_items = len(catalogue)
    ranker = build_ranker(SPEC, catalogue, train)
    tf.saved_model.save(RankingExport(ranker, data.query_encodings), str(tmp_path))
    features = queries_of(train, n_items, SPEC.ranking.history_length)
    candidates = tf.constant([[0, 3, n_items, 9]] * len(train), tf.int32)
    loaded = tf.saved_model.load(str(tmp_path))
    found = loaded.score(features, candidates)
    logits = ranker.network(features, candidates, ranker.numbers(features, candidates))
    np.testing.assert_allclose(found["bought"], 1 / (1 + np.exp(-logits["bought"])), atol=1e-6)
    np.testing.assert_allclose(found["quantity"], np.exp(np.maximum(logits["quantity"], 0)) - 1, atol=1e-6)
