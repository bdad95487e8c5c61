"""Item vectors: who is bought together is close, nothing of the future, and the features by hand."""

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from twotower.features.timelines import Timelines
from twotower.models.co_purchase import CLOSEST, HALF_LIVES, ItemVectors, co_purchase_features, item_vectors

DAY = 86_400
N_ITEMS = 9


def shop(extra: tuple[tuple[int, int, int], ...] = ()) -> Timelines:
    """Users buy items of one of two blocks, 0 to 3 or 4 to 7, on day 1; item 8 has one buyer."""
    random = np.random.default_rng(1)
    events = [(user, 4 * (user % 2) + item, 1) for user in range(40) for item in random.permutation(4)[:3]]
    users, items, days = np.array([*events, (0, 8, 1), (3, N_ITEMS, 1), *extra], dtype=np.int64).T
    ones = np.ones(len(users), np.float32)
    return Timelines.from_events(users, items.astype(np.int32), days * DAY, ones, 40)


def test_items_of_a_block_are_close() -> None:
    vectors = item_vectors(shop(), 2 * DAY, N_ITEMS, 2, seed=1)
    assert vectors.vectors.shape == (N_ITEMS + 1, 2)
    together = vectors.source[:8] @ vectors.target[:8].T
    blocks = np.arange(8) // 4
    same = blocks[:, np.newaxis] == blocks
    assert together[same].min() > together[~same].max() + 0.05
    assert not vectors.vectors[8:].any()  # too few buyers, and unknown


def test_at_full_rank_the_product_is_the_projection_onto_what_was_bought() -> None:
    # With every singular vector, source @ target.T is D^-1/2 P D^1/2, P the projection: here all of the space.
    vectors = item_vectors(shop(), 2 * DAY, N_ITEMS, 64, seed=1)
    np.testing.assert_allclose((vectors.source @ vectors.target.T)[:8, :8], np.eye(8), atol=1e-4)


def test_what_happens_at_or_after_the_moment_changes_nothing() -> None:
    before, after = (item_vectors(shop(extra), 2 * DAY, N_ITEMS, 4, seed=1) for extra in ((), ((0, 4, 2), (1, 0, 3))))
    np.testing.assert_array_equal(before.source, after.source)
    np.testing.assert_array_equal(before.target, after.target)


def test_nobody_bought_anything_yet() -> None:
    vectors = item_vectors(shop(), DAY, N_ITEMS, 4, seed=1)
    assert not vectors.source.any()
    assert np.isfinite(vectors.target).all()


def tables(seed: int = 0) -> ItemVectors:
    random = np.random.default_rng(seed)
    vectors = np.vstack([random.normal(size=(N_ITEMS, 3)), np.zeros((1, 3))])
    return ItemVectors(vectors.astype(np.float32), random.uniform(1, 5, size=(N_ITEMS + 1, 1)).astype(np.float32))


def features(items: list[int], ages: list[float], candidates: list[int]) -> dict[str, npt.NDArray[np.float32]]:
    vectors = tables()
    found = co_purchase_features(
        tf.constant(vectors.vectors),
        tf.constant(vectors.root),
        tf.constant([items], tf.int32),
        tf.constant([ages], tf.float32),
        tf.constant([candidates], tf.int32),
    )
    return {name: values[0].numpy() for name, values in found.items()}


def cosine(vectors: npt.NDArray[np.float32], one: int, other: int) -> float:
    lengths = np.linalg.norm(vectors[one]) * np.linalg.norm(vectors[other])
    return float(vectors[one] @ vectors[other] / lengths) if lengths else 0.0


def test_features_by_hand() -> None:
    items, ages, candidates = [2, 5, 2, 7, N_ITEMS], [1.0, 3.0, 40.0, 90.0, 0.0], [2, 4, N_ITEMS]
    vectors, found = tables(), features(items, ages, candidates)
    for half_life in HALF_LIVES:
        known = zip(items[:4], ages[:4], strict=True)
        history = np.sum([vectors.source[item] * 0.5 ** (age / half_life) for item, age in known], axis=0)
        scores = [history @ vectors.target[candidate] for candidate in candidates]
        np.testing.assert_allclose(found[f"together_{half_life}"], scores, rtol=1e-4, atol=1e-6)
        lengths = [np.linalg.norm(history) * np.linalg.norm(vectors.target[c]) or np.inf for c in candidates]
        np.testing.assert_allclose(
            found[f"cosine_{half_life}"], np.array(scores) / np.array(lengths), rtol=1e-4, atol=1e-6
        )
    for place, candidate in enumerate(candidates):
        # Each other item once; what is missing of the five counts 0.
        others = sorted({2, 5, 7} - {candidate})
        cosines = [*(cosine(vectors.vectors, candidate, item) for item in others), *[0.0] * CLOSEST]
        closest = sorted(cosines, reverse=True)[:CLOSEST]
        assert found["closest"][place] == pytest.approx(closest[0], abs=1e-5)
        assert found["close"][place] == pytest.approx(sum(closest) / CLOSEST, abs=1e-5)


def test_no_history() -> None:
    for items in ([], [N_ITEMS]):
        found = features(items, [0.0] * len(items), [1, 2])
        assert {name: values.tolist() for name, values in found.items()} == {key: [0.0, 0.0] for key in found}
