"""The classical models by hand: each on a few users and items, against its own definition in NumPy."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from implicit.cpu.als import AlternatingLeastSquares
from implicit.nearest_neighbours import CosineRecommender
from scipy.sparse import csr_matrix
from sklearn.decomposition import NMF

from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.contract import TrainingData
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.low_rank import right_singular
from twotower.models.family.svd import residual
from twotower.models.retrievers import fit
from twotower.models.tables import Catalogue, Users

Float64 = npt.NDArray[np.float64]
# Users by items; item 4 was never bought.
BOUGHT = np.array(
    [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [1, 0, 0, 1, 0], [0, 1, 0, 1, 0]], np.float64
)


def random_matrix(n_users: int = 40, n_items: int = 15) -> Float64:
    random = np.random.default_rng(3)
    tastes = random.random((n_users, 3)) @ random.random((3, n_items))
    bought = (random.random((n_users, n_items)) < 0.4 * tastes / tastes.mean()).astype(np.float64)
    bought[np.arange(n_users), np.arange(n_users) % n_items] = 1
    return np.asarray(bought)


def users_of(bought: npt.NDArray[Any]) -> Users:
    """Users who bought the items in a row's order, one a day; the first item of each twice."""
    pairs = [(user, item) for user, row in enumerate(bought) for item in np.flatnonzero(row)]
    pairs += [(user, int(np.argmax(row))) for user, row in enumerate(bought) if row.any()]
    users, items = np.array(pairs, np.int64).reshape(-1, 2).T
    times = np.arange(len(pairs)) * 86_400
    rows = np.arange(len(bought))
    history = Timelines.from_events(users, items.astype(np.int32), times, np.ones(len(pairs), np.float32), len(rows))
    return Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0))


def scores_of(bought: Float64, asked: Float64 | None = None, **retrieval: Any) -> Float64:
    """[users, items] scores of a model fitted to ``bought``, for the histories ``asked`` (by default the same)."""
    spec = Spec.model_validate(
        {
            "name": "shop",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": "1971-01-01"},
            "retrieval": retrieval,
        }
    )
    n_users, n_items = bought.shape
    catalogue = Catalogue(np.array([b"%d" % n for n in range(n_items)], dtype=object), {}, [])
    towers = fit(TrainingData(spec, catalogue, users_of(bought), n_users, Path()))
    asked = bought if asked is None else asked
    items, _ = users_of(asked).history.padded(n_items + 1, n_items)
    query = towers.query({"user_id": tf.range(len(asked)), "history_item_id": tf.constant(items)})
    return np.asarray(query @ tf.transpose(towers.candidate({"item_id": tf.range(n_items)})), np.float64)


def test_a_matrix_has_a_one_where_somebody_bought() -> None:
    np.testing.assert_array_equal(interaction_matrix(users_of(BOUGHT).history, 5).toarray(), BOUGHT)
    # Items that are out of the vocabulary are left out.
    np.testing.assert_array_equal(interaction_matrix(users_of(BOUGHT).history, 3).toarray(), BOUGHT[:, :3])


def test_nothing_bought_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one event with an item of the catalogue, found none"):
        interaction_matrix(users_of(BOUGHT).history.before(0), 5)


class TestItemCosine:
    def test_by_hand(self) -> None:
        found = scores_of(BOUGHT[:, :4], np.eye(4), model="item_cosine")
        # Items 0 to 3 have 3, 4, 3 and 3 buyers; items 0 and 1 share two, 0 and 2 one, and so on.
        a, b = 2 / np.sqrt(12), 1 / np.sqrt(12)
        expected = [[1, a, 1 / 3, 1 / 3], [a, 1, a, b], [1 / 3, a, 1, 1 / 3], [1 / 3, b, 1 / 3, 1]]
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_at_full_rank_agrees_with_implicit(self) -> None:
        bought = random_matrix()
        model = CosineRecommender(K=bought.shape[1], num_threads=1)
        model.fit(csr_matrix(bought), show_progress=False)
        np.testing.assert_allclose(
            scores_of(bought, model="item_cosine"), bought @ model.similarity.toarray(), atol=1e-5
        )

    def test_at_a_lower_rank_is_the_nearest_gram_matrix(self) -> None:
        bought = random_matrix()
        unit = bought / np.linalg.norm(bought, axis=0)
        values, vectors = np.linalg.eigh(unit.T @ unit)
        nearest = (vectors[:, -4:] * values[-4:]) @ vectors[:, -4:].T
        np.testing.assert_allclose(scores_of(bought, model="item_cosine", factors=4), bought @ nearest, atol=1e-4)

    def test_without_a_history_the_average_user_s_scores(self) -> None:
        found = scores_of(BOUGHT, np.array([[0.0] * 5, [0, 0, 0, 0, 1], [1, 1, 0, 0, 0]]), model="item_cosine")
        average = scores_of(BOUGHT, model="item_cosine").mean(axis=0)
        np.testing.assert_allclose(found[:2], [average] * 2, atol=1e-5)
        np.testing.assert_allclose(found[:, 4], 0)


class TestSvd:
    @pytest.mark.parametrize("factors", [1, 3, 14, 99])
    def test_scores_are_biases_and_the_dense_decomposition_of_the_residual(self, factors: int) -> None:
        bought, regularization = random_matrix(), 5.0
        n_users, n_items = bought.shape
        mean = bought.mean()
        item_bias = (bought - mean).sum(axis=0) / (regularization + n_users)
        user_bias = (bought - mean - item_bias).sum(axis=1) / (regularization + n_items)
        left = bought - mean - item_bias - user_bias[:, np.newaxis]
        u, s, vt = np.linalg.svd(left)
        kept = min(factors, n_items)
        expected = item_bias + (u[:, :kept] * s[:kept]) @ vt[:kept]
        found = scores_of(bought, model="svd", factors=factors, regularization=regularization)
        np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_without_a_history_the_items_biases(self) -> None:
        found = scores_of(BOUGHT, np.zeros((1, 5)), model="svd", regularization=0)
        np.testing.assert_allclose(found[0], BOUGHT.mean(axis=0) - BOUGHT.mean(), atol=1e-6)

    @pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
    def test_the_operator_is_the_dense_residual(self, shape: tuple[int, int]) -> None:
        random = np.random.default_rng(1)
        bought = (random.random(shape) < 0.5).astype(np.float32)
        rows, columns = random.random(shape[0]), random.random(shape[1])
        dense = bought - rows[:, np.newaxis] - columns
        operator = residual(csr_matrix(bought), rows, columns)
        right, left = random.random((shape[1], 3)), random.random((shape[0], 2))
        np.testing.assert_allclose(operator @ right, dense @ right)
        np.testing.assert_allclose(operator.T @ left, dense.T @ left)
        np.testing.assert_allclose(operator @ right[:, 0], dense @ right[:, 0])
        np.testing.assert_allclose(operator.T @ left[:, 0], dense.T @ left[:, 0])


ALS: dict[str, Any] = {"model": "als", "factors": 4, "regularization": 0.1, "confidence": 5.0, "iterations": 10}


class TestAls:
    def test_queries_are_implicit_s_own_recalculated_users(self) -> None:
        bought, asked = random_matrix(), random_matrix()[::3] * (np.arange(15) % 4 > 0)
        model = AlternatingLeastSquares(
            factors=4, regularization=0.1, iterations=10, use_cg=False, random_state=1, num_threads=1
        )
        model.fit(csr_matrix(bought * 6, dtype=np.float32), show_progress=False)
        users = model.recalculate_user(np.arange(len(asked)), csr_matrix(asked * 6, dtype=np.float32))
        found = scores_of(bought, asked, **ALS)
        np.testing.assert_allclose(found, users @ model.item_factors.T, atol=1e-4)

    def test_minimises_the_weighted_squares(self) -> None:
        bought = random_matrix()
        found = scores_of(bought, **{**ALS, "iterations": 30})
        weights = 1 + 5 * bought

        def loss(scores: Float64) -> float:
            return float((weights * (bought - scores) ** 2).sum())

        u, s, vt = np.linalg.svd(bought)
        assert loss(found) < 0.9 * loss((u[:, :4] * s[:4]) @ vt[:4])

    def test_without_a_history_the_average_user_s_scores(self) -> None:
        bought = random_matrix()
        found = scores_of(bought, np.zeros((1, 15)), **{**ALS, "iterations": 50})
        average = scores_of(bought, **{**ALS, "iterations": 50}).mean(axis=0)
        np.testing.assert_allclose(found[0], average, atol=0.01)


class TestNmf:
    def test_reconstructs_a_matrix_of_non_negative_parts(self) -> None:
        parts = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1]], np.float64)
        bought = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]] * 3) @ parts
        np.testing.assert_allclose(scores_of(bought, model="nmf", factors=3), bought, atol=0.01)

    def test_folded_in_users_are_as_near_as_the_trained_ones(self) -> None:
        bought = random_matrix()
        model = NMF(4, init="nndsvda", max_iter=100, tol=0, random_state=1)
        trained = model.fit_transform(csr_matrix(bought)) @ model.components_
        found = scores_of(bought, model="nmf", factors=4, iterations=100)
        assert ((bought - found) ** 2).sum() < 1.01 * ((bought - trained) ** 2).sum()
        np.testing.assert_allclose(found, trained, atol=0.05)

    def test_no_score_is_negative(self) -> None:
        assert scores_of(random_matrix(), model="nmf", factors=5).min() >= 0


class TestEase:
    def weights(self, bought: Float64, regularization: float) -> Float64:
        inverse = np.linalg.inv(bought.T @ bought + regularization * np.eye(bought.shape[1]))
        weights = -inverse / np.diag(inverse)
        np.fill_diagonal(weights, 0)
        return np.asarray(weights)

    def test_four_items_have_the_closed_form(self) -> None:
        bought = BOUGHT[:, :4]
        found = scores_of(bought, model="ease", regularization=2.0)
        np.testing.assert_allclose(found, bought @ self.weights(bought, 2.0), atol=1e-5)

    def test_the_weights_predict_each_item_best_from_the_others(self) -> None:
        bought, regularization = random_matrix(), 3.0
        found = scores_of(bought, np.eye(15), model="ease", regularization=regularization)
        for item in range(15):
            others = np.arange(15) != item
            x, y = bought[:, others], bought[:, item]
            ridge = np.linalg.solve(x.T @ x + regularization * np.eye(14), x.T @ y)
            np.testing.assert_allclose(found[others, item], ridge, atol=1e-4)

    def test_a_lower_rank_predicts_the_training_users_best(self) -> None:
        bought, regularization, factors = random_matrix(), 3.0, 5
        weights = self.weights(bought, regularization)
        found = scores_of(bought, np.eye(15), model="ease", regularization=regularization, factors=factors)
        metric = bought.T @ bought + regularization * np.eye(15)

        def distance(other: Float64) -> float:
            return float(np.trace((weights - other).T @ metric @ (weights - other)))

        assert np.linalg.matrix_rank(found, tol=1e-4) == factors
        u, s, vt = np.linalg.svd(np.linalg.cholesky(metric).T @ weights)
        assert distance(found) == pytest.approx((s[factors:] ** 2).sum(), rel=1e-3)
        u, s, vt = np.linalg.svd(weights)
        assert distance(found) < distance((u[:, :factors] * s[:factors]) @ vt[:factors])

    def test_items_beyond_the_most_bought_come_last_by_their_buyers(self) -> None:
        # Buyers: 3, 4, 3, 3, 0. The first two of those with most are items 1 and 0.
        found = scores_of(BOUGHT, model="ease", regularization=1.0, max_items=2)
        np.testing.assert_allclose(found[:, 2:], [[3 / 4 - 2, 3 / 4 - 2, -2]] * 6, atol=1e-6)
        two = BOUGHT[:, :2]
        expected = two @ self.weights(two, 1.0)
        expected[~two.any(axis=1)] = expected.mean(axis=0)  # nothing is known of them
        np.testing.assert_allclose(found[:, :2], expected, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 5, 9])
@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (300, 20)])
def test_right_singular_vectors_are_the_dense_ones(shape: tuple[int, int], rank: int) -> None:
    random = np.random.default_rng(2)
    dense = random.normal(size=shape) @ np.diag(0.7 ** np.arange(shape[1]))
    u, s, vt = np.linalg.svd(dense)
    kept = min(rank, *shape)
    nearest = (u[:, :kept] * s[:kept]) @ vt[:kept]
    none = np.zeros(shape[0]), np.zeros(shape[1])
    for matrix in (dense, csr_matrix(dense), residual(csr_matrix(dense), *none)):
        values, right = right_singular(matrix, rank, seed=1)
        assert values.shape == (kept,)
        np.testing.assert_allclose(np.sort(values)[::-1], s[:kept], rtol=1e-3)
        np.testing.assert_allclose(dense @ right @ right.T, nearest, atol=2e-3)
