"""The towers: what unknown ids get, what a history says, and where the prior sits."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.models.graph_factors import START, GraphFactors
from twotower.models.id_embeddings import IdEmbedding
from twotower.models.towers import CandidateTower, HistoryItems, QueryTower

COUNTS = np.array([9, 1, 5, 4, 0])  # with min_count 5, ids 0 and 2 are known
N_ITEMS = len(COUNTS)


def ids(dropout: float = 0.0, dim: int = 3) -> IdEmbedding:
    return IdEmbedding(COUNTS, min_count=5, dim=dim, dropout=dropout)


def query_tower(**changes: Any) -> QueryTower:
    choice: dict[str, Any] = {"n_items": N_ITEMS, "units": [4], "dim": 4} | changes
    return QueryTower([Encoding("context_hour", "index", 25)], ids(), HistoryItems(ids(), [], {}), **choice)


def query(items: list[list[int]], ages: list[list[float]], user: int = 0) -> dict[str, tf.Tensor]:
    return {
        "user_id": tf.constant([user] * len(items), tf.int64),
        "history_item_id": tf.constant(items, tf.int32),
        "history_age": tf.constant(ages),
        "context_hour": tf.zeros([len(items)], tf.int64),
    }


class TestIdEmbedding:
    def test_rare_and_unknown_ids_share_one_row(self) -> None:
        layer = ids()
        vectors = layer(tf.range(N_ITEMS + 1)).numpy()  # the last is an unknown id
        assert layer.embedding.embeddings.shape == (3, 3)
        for shared in (3, 4, 5):
            np.testing.assert_array_equal(vectors[1], vectors[shared])
        assert len(np.unique(vectors, axis=0)) == 3
        assert np.abs(vectors[1]).min() > 0

    def test_dropout_trains_the_shared_row(self) -> None:
        layer = ids(dropout=0.5)
        tf.keras.utils.set_random_seed(1)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(tf.zeros([1_000], tf.int64), training=True))
        gradient = tf.convert_to_tensor(tape.gradient(loss, layer.trainable_variables)[0]).numpy()
        # Each of 1,000 draws of id 0 adds 1 to the row that it took: half of them the shared row 2.
        assert gradient[2, 0] == pytest.approx(500, abs=80)
        assert gradient[0, 0] == 1_000 - gradient[2, 0]
        assert gradient[1, 0] == 0

    def test_nothing_is_dropped_when_serving(self) -> None:
        layer = ids(dropout=0.9)
        assert len(np.unique(layer(tf.zeros([200], tf.int64)).numpy(), axis=0)) == 1


class TestHistoryItems:
    def test_an_item_is_its_id_and_its_labels(self) -> None:
        brand = Encoding("item_brand", "index", 3)
        item_ids = ids()
        layer = HistoryItems(item_ids, [brand], {"item_brand": np.array([0, 1, 1, 2, 0])})
        rows = tf.constant([[1, 2], [4, N_ITEMS]])
        found = layer(rows).numpy()
        (table,) = (v.numpy() for v in layer.trainable_variables if v.shape[0] == 3 and v.shape[1] != 3)
        labels = np.array([[table[1], table[1]], [table[0], table[2]]])  # padding has the unknown label
        np.testing.assert_allclose(found, np.concatenate([item_ids(rows).numpy(), labels], axis=2))

    def test_rare_items_of_different_brands_differ(self) -> None:
        layer = HistoryItems(ids(), [Encoding("item_brand", "index", 3)], {"item_brand": np.array([0, 1, 1, 0, 1])})
        rare = layer(tf.constant([[1, 3, 4]])).numpy()[0]
        assert not np.allclose(rare[0], rare[1])
        np.testing.assert_array_equal(rare[0], rare[2])


class TestQueryTower:
    def test_the_last_dimension_takes_the_items_prior_as_it_is(self) -> None:
        vectors = query_tower()(query([[0, 2], [5, 5]], [[1.0, 2.0], [0.0, 0.0]])).numpy()
        assert vectors.shape == (2, 4)
        assert vectors[:, 3].tolist() == [1, 1]

    def test_padding_changes_nothing(self) -> None:
        tower = query_tower()
        short = tower(query([[0, 2]], [[1.0, 2.0]])).numpy()
        np.testing.assert_allclose(tower(query([[0, 2, 5, 5]], [[1.0, 2.0, 0.0, 0.0]])).numpy(), short, rtol=1e-5)
        assert not np.allclose(tower(query([[0, 2, 2]], [[1.0, 2.0, 0.0]])).numpy(), short, rtol=1e-5)

    def test_history_ids_are_dropped_in_training_too(self) -> None:
        tower = QueryTower([], ids(), HistoryItems(ids(dropout=0.5), [], {}), n_items=N_ITEMS, units=[4], dim=4)
        features = query([[0]] * 500, [[1.0]] * 500)
        tf.keras.utils.set_random_seed(1)
        # Each history is its known item or the shared row: two vectors in training, one in serving.
        assert len(np.unique(tower(features, training=True).numpy().round(6), axis=0)) == 2
        assert len(np.unique(tower(features).numpy().round(6), axis=0)) == 1


class TestCandidateTower:
    def test_the_prior_is_the_last_dimension_and_reaches_the_score(self) -> None:
        prior = np.array([0.5, -1.0, 2.0, 0.0, 0.0, -3.0], dtype=np.float32)
        tower = CandidateTower([], ids(), prior, units=[4], dim=4)
        vectors = tower({"item_id": tf.range(6)}).numpy()
        assert vectors.shape == (6, 4)
        assert vectors[:, 3].tolist() == prior.tolist()
        asked = query_tower()(query([[0]], [[1.0]])).numpy()
        np.testing.assert_allclose((asked @ vectors.T)[0], asked[0, :3] @ vectors[:, :3].T + prior, rtol=1e-5)

    def test_features_tell_rare_items_apart(self) -> None:
        tower = CandidateTower([Encoding("item_price", "number", 1)], ids(), np.zeros(6, np.float32), units=[4], dim=4)
        same, other = (
            tower({"item_id": tf.constant([1, 3]), "item_price": tf.constant(prices)}).numpy()
            for prices in ([1.0, 1.0], [1.0, -1.0])
        )
        np.testing.assert_array_equal(same[0], same[1])
        assert not np.allclose(other[0], other[1])


def test_served_affinities_are_shrunk_and_the_prior_is_not() -> None:
    prior = np.arange(N_ITEMS + 1, dtype=np.float32)
    tower = CandidateTower([], ids(), prior, units=[4], dim=4, affinity_weight=0.25)
    rows = {"item_id": tf.range(N_ITEMS + 1, dtype=tf.int64)}
    trained, served = tower(rows, training=True).numpy(), tower(rows, training=False).numpy()
    np.testing.assert_allclose(served[:, :-1], 0.25 * trained[:, :-1], rtol=1e-6)
    np.testing.assert_array_equal(served[:, -1], prior)
    np.testing.assert_array_equal(trained[:, -1], prior)


def towers(graph: GraphFactors | None = None, **choice: Any) -> tuple[QueryTower, CandidateTower]:
    return query_tower(graph=graph, **choice), CandidateTower(
        [], ids(), np.zeros(6, np.float32), units=[4], dim=4, graph=graph, similarity=choice.get("similarity", "dot")
    )


def test_cosines_leave_the_prior_alone() -> None:
    asked, items = towers(similarity="cosine", temperature=0.5)
    queries = asked(query([[0, 2], [1, 5]], [[1.0, 2.0], [3.0, 0.0]])).numpy()
    vectors = items({"item_id": tf.range(6)}).numpy()
    # A unit vector over the temperature.
    np.testing.assert_allclose(np.linalg.norm(queries[:, :-1], axis=1), 2, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, :-1], axis=1), 1, rtol=1e-5)
    assert queries[:, -1].tolist() == [1, 1]


@pytest.mark.parametrize(("temperature", "learned"), [(0.5, False), ("learned", True)])
def test_a_temperature_is_trained_if_the_spec_says_so(temperature: Any, learned: bool) -> None:
    asked = query_tower(temperature=temperature)
    asked(query([[0]], [[1.0]]))
    assert any("temperature" in weight.name for weight in asked.trainable_variables) == learned


def test_the_graphs_dimensions_add_to_the_score() -> None:
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    graph = GraphFactors(vectors, np.array([4, 1, 1, 1, 1]))
    asked, items = towers(graph)
    features, rows = query([[0, 2, 2]], [[1.0, 2.0, 3.0]]), {"item_id": tf.range(6)}
    queries, candidates = asked(features).numpy(), items(rows).numpy()
    assert queries.shape == (1, 6)
    # Each item once, over the root of its buyers; their sum over the root of their number.
    history = (vectors[0] / 2 + vectors[2]) / np.sqrt(2)
    np.testing.assert_allclose(queries[0, 3:5], START * history, rtol=1e-5)
    np.testing.assert_allclose(candidates[:, 3:5], [*vectors.tolist(), [0, 0]])
    assert (queries[:, -1], candidates[:, -1].tolist()) == (1, [0] * 6)
