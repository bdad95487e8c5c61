"""How a partitioned index ranks its leaves, how many it takes, and that their number alone decides what it finds."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from twotower.serving.index import build_index
from twotower.serving.index import leaves as leaves_file
from twotower.serving.index import portable as portable_file
from twotower.serving.index.base import FloatMatrix
from twotower.serving.index.export import IndexExport
from twotower.serving.index.leaves import choose_leaves, rank_leaves, row_spread
from twotower.serving.index.partition import Partition, partition
from twotower.serving.index.portable import PortableIndex
from twotower.serving.index.probing import recall, true_rows, tune

# Two leaves along the first axis: a tight one around (2, 0), and one around (0, 0) that reaches to (6, 0).
ROWS = np.array([[2, 1], [-6, 0], [2, -1], [6, 0]], np.float32)
LEAVES = Partition(
    np.array([[2, 0], [0, 0]], np.float32), np.array([0, 2, 1, 3], np.int32), np.array([0, 2, 4], np.int32)
)
ALONG = np.array([[1, 0]], np.float32)


def test_spread_is_the_root_mean_square_along_the_queries() -> None:
    np.testing.assert_allclose(row_spread(ROWS, LEAVES, ALONG), [0, 6])
    np.testing.assert_allclose(row_spread(ROWS, LEAVES, np.array([[0, 1]], np.float32)), [1, 0])
    np.testing.assert_allclose(row_spread(ROWS, LEAVES, np.eye(2, dtype=np.float32)), [np.sqrt(0.5), np.sqrt(18)])


def test_a_wide_leaf_comes_first_where_its_rows_win(monkeypatch: pytest.MonkeyPatch) -> None:
    # (1, 0) likes (6, 0) best, whose leaf has the smaller centroid product.
    monkeypatch.setattr("twotower.serving.index.probing.TUNED_KS", (1,))
    found = rank_leaves(ROWS, LEAVES, ALONG, {1: np.array([[3]], np.int32)}, 1.0)
    assert found.probing.leaves == (1,)
    assert found.ranking[1] @ [1, 0, 1] > found.ranking[0] @ [1, 0, 1]


def test_spread_does_not_count_where_centroids_rank_better(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the row that is wanted, the tight leaf knows: each weight of the spread large enough to matter asks for more.
    monkeypatch.setattr("twotower.serving.index.probing.TUNED_KS", (1,))
    found = rank_leaves(ROWS, LEAVES, ALONG, {1: np.array([[0]], np.int32)}, 1.0)
    assert found.probing.leaves == (1,)
    np.testing.assert_array_equal(found.ranking[:, 2], 0)


def test_tuned_leaves_hold_k_rows_whichever_they_are() -> None:
    sizes = np.array([300, 40, 30, 50, 580])
    found = tune(sizes, lambda k, leaves: 1.0, 0.9)
    assert (found.ks, found.leaves, found.least, found.all_leaves) == ((100,), (3,), 3, 5)
    assert tune(np.array([5, 5]), lambda k, leaves: 1.0, 0.9).leaves == (2,)


@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=40), st.integers(0, 40))
def test_any_tuned_leaves_hold_k_rows(sizes: list[int], enough: int) -> None:
    found = tune(np.array(sizes), lambda k, leaves: float(leaves >= enough), 0.9)
    for k, leaves in zip(found.ks, found.leaves, strict=True):
        assert sum(sorted(sizes)[:leaves]) >= min(k, sum(sizes))
        assert leaves >= min(enough, len(sizes))
    assert list(found.leaves) == sorted(found.leaves)


@pytest.mark.parametrize(("k", "leaves"), [(1, 3), (100, 3), (101, 5)])
def test_leaves_by_k(k: int, leaves: int) -> None:
    found = tune(np.array([300, 40, 30, 50, 580]), lambda k, leaves: 1.0, 0.9)
    assert found.leaves_for(tf.constant(k)) == leaves


def clustered(rows: int, centres: int, draw: int) -> FloatMatrix:
    rng = np.random.default_rng(draw)
    near = np.random.default_rng(0).normal(size=(centres, 8))[rng.integers(centres, size=rows)]
    return np.asarray(near + 0.05 * rng.normal(size=near.shape), np.float32)


def test_partition_has_no_leaf_much_smaller_than_the_others() -> None:
    # One row far from all others draws a centroid to itself.
    rows = clustered(2_000, 5, draw=1)
    rows[7] = 100
    found = partition(rows, 10, seed=0)
    assert np.diff(found.splits).min() >= 2_000 / 10 / 8
    np.testing.assert_array_equal(np.sort(found.order), np.arange(2_000))
    for i, centroid in enumerate(found.centroids):
        here = found.order[found.splits[i] : found.splits[i + 1]]
        assert (np.diff(here) > 0).all()
        np.testing.assert_allclose(rows[here].mean(axis=0), centroid, rtol=1e-4, atol=1e-4)


def test_leaves_are_halved_only_while_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, queries = clustered(4_000, 500, draw=1), clustered(50, 500, draw=2)
    truth = true_rows(rows, queries)
    base = choose_leaves(rows, 0, queries, truth, 0.95)
    assert len(base.ranking) <= 64  # sqrt(4,000): a leaf costs more than its rows
    monkeypatch.setattr(leaves_file, "LEAF_COST", 0)
    monkeypatch.setattr(leaves_file, "CENTROID_COST", 0.1)
    assert len(choose_leaves(rows, 0, queries, truth, 0.95).ranking) > 64


@pytest.fixture(scope="module")
def index() -> PortableIndex:
    rows = np.random.default_rng(0).normal(size=(12_000, 8)).astype(np.float32)
    return PortableIndex(rows, seed=0, wanted=0.9, queries=rows[:50], precision="float32")


@pytest.mark.parametrize("leaves", [20, 63, 109])
def test_unrolled_leaves_and_blocks_of_leaves_find_the_same(
    index: PortableIndex, leaves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    index.probing = dataclasses.replace(index.probing, leaves=(leaves,) * 2)
    found = []
    for most in (1, 1_000):
        monkeypatch.setattr(portable_file, "MOST_UNROLLED", most)
        search = IndexExport(index).search
        scores, rows = search(queries, 100)
        np.testing.assert_array_equal(search(queries[:1], 100)[1], rows[:1])
        found.append((scores.numpy(), rows.numpy()))
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)


def test_more_leaves_find_more_and_all_of_them_everything(index: PortableIndex) -> None:
    queries = np.random.default_rng(2).normal(size=(20, 8)).astype(np.float32)
    truth = build_index(index.embeddings(tf.range(index.size)).numpy(), "exact", seed=0).search(queries, 100)[1]
    reached = []
    for leaves in (index.probing.least, 20, 60, index.probing.all_leaves):
        index.probing = dataclasses.replace(index.probing, leaves=(leaves,) * 2)
        reached.append(recall(IndexExport(index).search(queries, 100)[1].numpy(), truth.numpy()))
    assert reached == sorted(reached)
    assert reached[0] < 0.9
    assert reached[-1] == 1
