"""The graph-fed towers: the filter's formula by dense algebra, and the choice of the rank."""

import numpy as np
import pytest
import scipy.sparse

from twotower.features.model_choices import GraphTower
from twotower.models.family.graph_tower import GraphFilter, best_rank


def choice(**settings: float) -> GraphTower:
    return GraphTower.model_validate({"model": "graph_tower", **settings})


def blocks(n_blocks: int, random: np.random.Generator) -> scipy.sparse.csr_matrix:
    """40 users and 12 items a block; a user has bought about two thirds of the block's items."""
    block = np.kron(np.eye(n_blocks), np.ones((40, 12)))
    return scipy.sparse.csr_matrix((block * (random.random(block.shape) < 0.66)).astype(np.float32))


def test_the_filter_equals_the_dense_formula() -> None:
    random = np.random.default_rng(0)
    purchases = (random.random((9, 6)) < 0.5).astype(np.float32)
    purchases[:, 0] = 1
    chosen = choice(factors=3, user_power=0.2, item_power=0.7, output_power=0.4, spectrum_power=1.5)
    found = GraphFilter.of(scipy.sparse.csr_matrix(purchases), chosen, seed=1)
    users, items = purchases.sum(axis=1), np.maximum(purchases.sum(axis=0), 1)
    _, values, right = np.linalg.svd(users[:, None] ** -0.2 * purchases * items**-0.7, full_matrices=False)
    low = right[:3].T @ np.diag(values[:3] ** 1.5) @ right[:3]
    np.testing.assert_allclose(found.left @ found.right.T, items[:, None] ** -0.4 * low * items**0.4, atol=1e-5)


def test_gf_cf_is_a_special_case() -> None:
    # All powers 1/2 and an ideal filter of full rank give every user their own purchases back.
    purchases = blocks(2, np.random.default_rng(1))
    found = GraphFilter.of(
        purchases, choice(factors=24, user_power=0.5, item_power=0.5, output_power=0.5, spectrum_power=0), seed=1
    )
    np.testing.assert_allclose(purchases @ found.left @ found.right.T, purchases.toarray(), atol=1e-4)


def test_items_and_users_without_purchases_have_finite_vectors() -> None:
    purchases = scipy.sparse.csr_matrix(np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]], np.float32))
    found = GraphFilter.of(purchases, choice(factors=2), seed=1)
    assert np.isfinite(found.left).all()
    np.testing.assert_allclose(found.right[2], 0, atol=1e-6)


def test_the_rank_follows_the_structure() -> None:
    # Four groups of interests are four frequencies; the others are chance, which a higher rank only repeats.
    assert best_rank(blocks(4, np.random.default_rng(2)), choice(factors=48, spectrum_power=0), seed=3) == 16


def test_the_rank_is_what_was_asked_where_nothing_can_be_held_out() -> None:
    purchases = scipy.sparse.csr_matrix(np.eye(5, dtype=np.float32))
    assert best_rank(purchases, choice(factors=7), seed=1) == 7


@pytest.mark.parametrize("factors", [1, 5, 500])
def test_no_rank_above_what_was_asked_or_what_there_is(factors: int) -> None:
    purchases = blocks(2, np.random.default_rng(4))
    found = GraphFilter.of(purchases, choice(factors=factors), seed=1)
    assert found.left.shape == found.right.shape == (24, min(factors, 24))
