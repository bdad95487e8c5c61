"""The contract of every candidate index, and the recall of the approximate ones."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from twotower.serving.index import Index, build_index
from twotower.serving.index.base import FloatMatrix
from twotower.serving.index.build import Kind
from twotower.serving.index.exact import ExactIndex
from twotower.serving.index.export import IndexExport
from twotower.serving.index.portable import PortableIndex
from twotower.serving.index.probing import recall
from twotower.serving.index.scann import ScannIndex

KINDS: tuple[Kind, ...] = ("exact", "scann", "portable")
# Rows 0 to 3 against the query (1, 0): products 3, -1, 0 and 2.
TINY = np.array([[3, 0], [-1, 5], [0, 9], [2, -7]], np.float32)


def clustered(count: int, dim: int, draw: int) -> FloatMatrix:
    """Vectors around 300 centres; the centres are the same for every draw."""
    centres = np.random.default_rng(0).normal(size=(300, dim))
    rng = np.random.default_rng(draw)
    near: FloatMatrix = (centres[rng.integers(300, size=count)] + 0.5 * rng.normal(size=(count, dim))).astype(
        np.float32
    )
    return near


@pytest.fixture(scope="module")
def vectors() -> FloatMatrix:
    return clustered(50_000, 32, draw=1)


@pytest.fixture(scope="module")
def indexes(vectors: FloatMatrix) -> dict[Kind, Index]:
    return {kind: build_index(vectors, kind, seed=7) for kind in KINDS}


@pytest.fixture(scope="module")
def exports(indexes: dict[Kind, Index]) -> dict[Kind, IndexExport]:
    """The indexes as graphs."""
    return {kind: IndexExport(index) for kind, index in indexes.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_matrix_gives_the_known_answer(kind: Kind) -> None:
    scores, rows = build_index(TINY, kind, seed=0).search(tf.constant([[1.0, 0.0], [0.0, 1.0]]), 2)
    np.testing.assert_array_equal(rows, [[0, 3], [2, 1]])
    np.testing.assert_array_equal(scores, [[3, 2], [9, 5]])


@pytest.mark.parametrize("kind", KINDS)
def test_list_longer_than_the_catalogue_is_padded(kind: Kind) -> None:
    scores, rows = build_index(TINY, kind, seed=0).search(tf.constant([[1.0, 0.0]]), 6)
    np.testing.assert_array_equal(rows, [[0, 3, 2, 1, -1, -1]])
    np.testing.assert_array_equal(scores, [[3, 2, 0, -1, -np.inf, -np.inf]])


def test_small_catalogue_is_searched_exactly() -> None:
    small = clustered(999, 4, draw=1)
    assert isinstance(build_index(small, "scann", seed=0, exact_below=0), ExactIndex)
    assert isinstance(build_index(small, "scann", seed=0), ExactIndex)
    assert isinstance(build_index(small, "portable", seed=0), ExactIndex)
    assert isinstance(build_index(small, "portable", seed=0, exact_below=999), PortableIndex)


# Whole numbers, so that sums are exact in float32 and ties are real.
matrices = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
    lambda shape: hnp.arrays(np.float32, shape, elements=st.integers(-5, 5).map(float))
)


@settings(max_examples=25, deadline=None)
@given(matrices, st.integers(1, 20), st.integers(0, 3), st.sampled_from(["exact", "portable"]), st.data())
def test_contract_holds_for_any_matrix(embeddings: FloatMatrix, k: int, batch: int, kind: Kind, data: Any) -> None:
    n, dim = embeddings.shape
    queries = data.draw(hnp.arrays(np.float32, (batch, dim), elements=st.integers(-5, 5).map(float)))
    index = build_index(embeddings, kind, seed=0, recall=1.0, exact_below=0, queries=np.eye(dim, dtype=np.float32))
    scores, rows = (t.numpy() for t in index.search(queries, k))
    assert scores.shape == rows.shape == (batch, k)
    found = min(k, n)
    assert (rows[:, found:] == -1).all()
    assert (scores[:, found:] == -np.inf).all()
    products = queries @ embeddings.T
    for i in range(batch):
        assert len(set(rows[i, :found])) == found
        assert set(rows[i, :found]) <= set(range(n))
        np.testing.assert_array_equal(scores[i, :found], products[i, rows[i, :found]])
        assert (np.diff(scores[i, :found]) <= 0).all()
        if kind == "exact":
            np.testing.assert_array_equal(rows[i, :found], np.argsort(-products[i], kind="stable")[:found])


def test_exact_search_of_several_blocks_equals_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, queries = clustered(1_000, 8, draw=1), clustered(10, 8, draw=2)
    monkeypatch.setattr("twotower.serving.index.exact.SCORES_PER_BLOCK", 3_000)  # blocks of 3, 3, 3 and 1 queries
    scores, rows = build_index(embeddings, "exact", seed=0).search(queries, 5)
    products = queries @ embeddings.T
    np.testing.assert_array_equal(rows, np.argsort(-products, axis=1)[:, :5])
    np.testing.assert_allclose(scores, np.sort(products, axis=1)[:, :-6:-1], rtol=1e-5)


@pytest.mark.parametrize("kind", ["scann", "portable"])
@pytest.mark.parametrize("k", [100, 1_000])
def test_recall_on_unseen_queries(exports: dict[Kind, IndexExport], kind: Kind, k: int) -> None:
    queries = clustered(200, 32, draw=2)
    truth = exports["exact"].search(queries, k)[1].numpy()
    assert recall(exports[kind].search(queries, k)[1].numpy(), truth) >= 0.95


def test_wider_search_is_tuned_for_vectors_without_clusters() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20_000, 16)).astype(np.float32)
    queries = rng.normal(size=(100, 16)).astype(np.float32)
    truth = build_index(vectors, "exact", seed=0).search(queries, 100)[1].numpy()
    for kind in KINDS[1:]:
        index = build_index(vectors, kind, seed=0, queries=rng.normal(size=(256, 16)).astype(np.float32))
        assert recall(IndexExport(index).search(queries, 100)[1].numpy(), truth) >= 0.95


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 100, 3_000, 50_010])
def test_lists_are_full_distinct_sorted_and_exactly_scored(
    exports: dict[Kind, IndexExport], vectors: FloatMatrix, kind: Kind, k: int
) -> None:
    queries = clustered(8, 32, draw=3)
    scores, rows = (t.numpy() for t in exports[kind].search(queries, k))
    found = min(k, len(vectors))
    assert (rows[:, :found] >= 0).all()
    assert (rows[:, found:] == -1).all()
    assert all(len(np.unique(row[:found])) == found for row in rows)
    assert (np.diff(scores[:, :found], axis=1) <= 0).all()
    expected = np.einsum("bd,bkd->bk", queries, vectors[rows[:, :found]])
    np.testing.assert_allclose(scores[:, :found], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_one_query_and_its_batch_agree(exports: dict[Kind, IndexExport], kind: Kind) -> None:
    queries = clustered(64, 32, draw=4)
    together, rows = exports[kind].search(queries, 50)
    for i in (0, 31, 63):
        alone, row = exports[kind].search(queries[i : i + 1], 50)
        np.testing.assert_array_equal(row[0], rows[i])
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_come_back_by_row(indexes: dict[Kind, Index], vectors: FloatMatrix, kind: Kind) -> None:
    rows = np.array([[0, 49_999], [17, 17]])
    np.testing.assert_array_equal(indexes[kind].embeddings(tf.constant(rows, tf.int32)), vectors[rows])


@pytest.mark.parametrize("kind", ["scann", "portable"])
def test_same_seed_gives_the_same_index(kind: Kind) -> None:
    vectors = clustered(3_000, 8, draw=1)
    first, again, other = (build_index(vectors, kind, seed=seed, exact_below=0) for seed in (7, 7, 8))
    assert type(first) is {"scann": ScannIndex, "portable": PortableIndex}[kind]
    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first) != fingerprint(other)


def fingerprint(index: Index) -> list[bytes]:
    """What the index keeps, without the scalars that ScaNN leaves unset."""
    values = [variable.numpy() for variable in index.variables if variable.shape.rank]
    return [b"".join(value.ravel()) if value.dtype == object else value.tobytes() for value in values]


@pytest.mark.parametrize("kind", KINDS)
def test_bad_requests_are_refused(indexes: dict[Kind, Index], kind: Kind) -> None:
    index = indexes[kind]
    search = tf.function(index.search, input_signature=[tf.TensorSpec([None, None]), tf.TensorSpec([], tf.int32)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="k: expected at least 1"):
        search(np.zeros((1, 32), np.float32), 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="queries: expected finite values"):
        search(np.full((1, 32), np.nan, np.float32), 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[1,3\] is not compatible .* \[\?,32\]"):
        search(np.zeros((1, 3), np.float32), 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"embeddings": TINY.astype(np.float64)}, "embeddings: expected a float32 array, found float64"),
        ({"embeddings": TINY.tolist()}, "embeddings: expected a float32 array, found list"),
        ({"embeddings": TINY[0]}, r"embeddings: expected a non-empty \[rows, dim\] matrix, found shape \(2,\)"),
        ({"embeddings": TINY[:0]}, r"embeddings: expected a non-empty \[rows, dim\] matrix, found shape \(0, 2\)"),
        ({"embeddings": np.where(TINY == 9, np.float32(np.inf), TINY)}, "found others in 1 rows, the first row 2"),
        ({"embeddings": np.where(TINY < 0, np.float32(np.nan), TINY)}, "found others in 2 rows, the first row 1"),
        ({"kind": "annoy"}, "kind: expected one of exact, scann, portable, found 'annoy'"),
        ({"recall": 0}, r"recall: expected a number in \(0, 1\], found 0"),
        ({"seed": -1}, "seed: expected at least 0, found -1"),
        ({"queries": np.zeros((1, 3), np.float32)}, "queries: expected width 2, as the embeddings, found 3"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_index(**{"embeddings": TINY, "kind": "exact", "seed": 0, **arguments})
