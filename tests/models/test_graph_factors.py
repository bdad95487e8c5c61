"""Graph factors: they tell groups of items apart, and leave out what is rare."""

import tracemalloc

import numpy as np
import tensorflow as tf

from twotower.features.timelines import Timelines
from twotower.models.graph_factors import GraphFactors, deviation


def history() -> Timelines:
    """Users 0-19 buy three of the items 0-4, users 20-39 three of 5-9, everybody item 10, one user item 11."""
    random = np.random.default_rng(1)
    rows = [
        (user, item)
        for user in range(40)
        for item in [*(random.permutation(5)[:3] + 5 * (user // 20)), 10, *([11] if user == 0 else [])]
    ]
    users, items = np.array(rows).T
    ones = np.ones(len(users), np.float32)
    return Timelines.from_events(users, items.astype(np.int32), np.zeros(len(users), np.int64), ones, 40)


def test_a_history_scores_its_group_higher() -> None:
    # Beside what everybody buys, the lowest frequency is which group one belongs to.
    graph = GraphFactors.of(history(), 12, dim=1, min_count=2, seed=1)
    scores = (graph.history(tf.constant([[0, 1], [5, 6]])) @ tf.transpose(graph.items(tf.range(12)))).numpy()
    assert scores[0, :5].min() > scores[0, 5:10].max()
    assert scores[1, 5:10].min() > scores[1, :5].max()


def test_rare_and_unknown_items_say_nothing() -> None:
    graph = GraphFactors.of(history(), 12, dim=2, min_count=2, seed=1)
    assert not graph.items(tf.constant([11, 12])).numpy().any()
    with_them = graph.history(tf.constant([[0, 12, 12], [12, 12, 12]])).numpy()
    np.testing.assert_allclose(with_them[0], graph.history(tf.constant([[0]])).numpy()[0], rtol=1e-5)
    assert not with_them[1].any()


def test_an_item_counts_once_however_often_it_was_bought() -> None:
    graph = GraphFactors.of(history(), 12, dim=2, min_count=2, seed=1)
    once, often = graph.history(tf.constant([[0, 5, 12, 12], [0, 5, 0, 0]])).numpy()
    np.testing.assert_allclose(often, once, rtol=1e-5)


def test_the_scores_of_users_have_a_standard_deviation_of_one() -> None:
    timelines = history()
    graph = GraphFactors.of(timelines, 12, dim=3, min_count=2, seed=1)
    items = timelines.padded(5, 12)[0]
    scores = (graph.history(tf.constant(items)) @ tf.transpose(graph.items(tf.range(11)))).numpy()
    assert abs(scores.std() - 1) < 0.1


def test_the_deviation_of_scores_needs_no_matrix_of_them() -> None:
    random = np.random.default_rng(1)
    queries, items = (random.normal(0.3, 1, (n, 4)).astype(np.float32) for n in (30, 50))
    np.testing.assert_allclose(deviation(queries, items), (queries @ items.T).std(), rtol=1e-5)
    tracemalloc.start()
    # The matrix would take 240 MB.
    deviation(queries, np.ones((2_000_000, 4), np.float32))
    assert tracemalloc.get_traced_memory()[1] < 100e6
    tracemalloc.stop()


def test_there_are_no_more_factors_than_items() -> None:
    assert GraphFactors.of(history(), 12, dim=50, min_count=1, seed=1).dim == 11
