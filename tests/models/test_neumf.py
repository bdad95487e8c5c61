"""NeuMF: it learns what popularity cannot say, and its export answers as it was trained."""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from twotower.features.model_choices import NeuMf
from twotower.models.exports import RankingExport
from twotower.models.neumf import NeuMfNetwork, NeuMfRanker, train

N_USERS, N_ITEMS = 40, 16
CHOICE = NeuMf(
    model="neumf",
    factors=4,
    units=(8, 4),
    regularization=0.0,
    batch_size=64,
    epochs=60,
    negatives=4,
    sampled_items=8,
    learning_rate=0.03,
)


def is_match(users: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """An exclusive or: even users buy the first half of the items, odd ones the second."""
    return np.equal(users % 2 == 1, items >= N_ITEMS // 2)


def pairs() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Every match but a quarter: each item has as many buyers as any other, each user as many items."""
    users, items = np.divmod(np.arange(N_USERS * N_ITEMS), N_ITEMS)
    kept = is_match(users, items) & ((users // 2 + items) % 4 != 0)
    return users[kept], items[kept]


@pytest.fixture(name="network", scope="module")
def fixture_network(tmp_path_factory: pytest.TempPathFactory) -> NeuMfNetwork:
    return cached(tmp_path_factory.mktemp("neumf"))


@cache
def cached(folder: Path) -> NeuMfNetwork:
    return train(CHOICE, *pairs(), N_USERS, N_ITEMS, seed=1, folder=folder)


def score(network: NeuMfNetwork, users: list[int], candidates: list[list[int]]) -> npt.NDArray[np.float32]:
    found = NeuMfRanker(network)(
        {"user_id": tf.constant(users, tf.int64)}, tf.reshape(tf.constant(candidates, tf.int32), [len(users), -1])
    )
    assert set(found) == {"bought"}
    return np.asarray(found["bought"])


def test_the_pattern_has_no_popular_items() -> None:
    users, items = pairs()
    assert set(np.bincount(items)) == {15}
    assert set(np.bincount(users)) == {6}


def test_left_out_pairs_of_an_exclusive_or_come_first(network: NeuMfNetwork) -> None:
    found = score(network, list(range(N_USERS)), [list(range(N_ITEMS))] * N_USERS)
    users, items = np.divmod(np.arange(N_USERS * N_ITEMS), N_ITEMS)
    matches = is_match(users, items).reshape(N_USERS, N_ITEMS)
    seen = np.zeros_like(matches)
    seen[pairs()] = True
    assert (matches & ~seen).sum() == 80
    lowest = np.where(matches & ~seen, found, 1).min(axis=1)
    highest = np.where(matches, 0, found).max(axis=1)
    assert (lowest > highest).mean() > 0.9


def test_probabilities_are_those_of_a_pair_against_its_negatives(network: NeuMfNetwork) -> None:
    # 240 pairs with 4 negatives each: over all 640 cells, 1.5 negatives a cell beside the 0.375 positives.
    found = score(network, list(range(N_USERS)), [list(range(N_ITEMS))] * N_USERS)
    seen = np.zeros(found.shape, bool)
    seen[pairs()] = True
    assert found[seen].mean() == pytest.approx(1 / (1 + 1.5), abs=0.08)


def test_two_trainings_give_the_same_scores(network: NeuMfNetwork, tmp_path: Path) -> None:
    short = CHOICE.model_copy(update={"epochs": 2})
    first, second = (train(short, *pairs(), N_USERS, N_ITEMS, seed=3, folder=tmp_path) for _ in range(2))
    asked = [0, 7, N_USERS], [[0, 9], [3, N_ITEMS], [1, 2]]
    np.testing.assert_array_equal(score(first, *asked), score(second, *asked))
    other = train(short, *pairs(), N_USERS, N_ITEMS, seed=4, folder=tmp_path)
    assert np.abs(score(first, *asked) - score(other, *asked)).max() > 1e-4


def test_unknown_users_and_items_have_a_probability_of_their_own(network: NeuMfNetwork) -> None:
    found = score(network, [N_USERS, 0], [[1, 9, N_ITEMS]] * 2)
    assert ((found > 0) & (found < 1)).all()
    (first_buys, first_does_not), (second_does_not, second_buys) = score(network, [0, 1], [[1, 9]] * 2)
    # An unknown user is like neither kind: between what one would and what the other would not buy.
    assert first_does_not < found[0, 1] < second_buys
    assert second_does_not < found[0, 0] < first_buys


def test_a_score_does_not_depend_on_the_other_candidates(network: NeuMfNetwork) -> None:
    together = score(network, [3], [[0, N_ITEMS, 9, 15]])
    for place, candidate in enumerate([0, N_ITEMS, 9, 15]):
        np.testing.assert_allclose(score(network, [3], [[candidate]])[0, 0], together[0, place], atol=1e-6)
    assert score(network, [3], [[]]).shape == (1, 0)


def test_a_saved_ranker_answers_the_same(network: NeuMfNetwork, tmp_path: Path) -> None:
    tf.saved_model.save(RankingExport(NeuMfRanker(network), []), str(tmp_path))
    features = {
        "user_id": tf.constant([2, N_USERS], tf.int64),
        "history_item_id": tf.zeros([2, 0], tf.int32),
        "history_age": tf.zeros([2, 0]),
    }
    candidates = tf.constant([[1, 5, N_ITEMS], [0, 9, 3]], tf.int32)
    loaded = tf.saved_model.load(str(tmp_path))
    found = loaded.score(features, candidates)
    assert set(found) == {"bought"}
    np.testing.assert_allclose(found["bought"], score(network, [2, N_USERS], candidates.numpy().tolist()), atol=1e-6)


def test_fewer_pairs_than_a_group_shares_negatives_with(tmp_path: Path) -> None:
    tiny = CHOICE.model_copy(update={"epochs": 1, "min_id_count": 1})
    network = train(tiny, np.array([0]), np.array([1]), 2, 3, seed=1, folder=tmp_path)
    assert np.isfinite(score(network, [0, 1], [[0, 1], [1, 2]])).all()
