"""Trees in the graph score as LightGBM's own code does, and learn what decides."""

from pathlib import Path

import lightgbm
import numpy as np
import pytest
import tensorflow as tf

from twotower.models.boosted_trees import BLOCK, SETTINGS, BoostedTrees, grow
from twotower.models.ranking_inputs import TrainingLists
from twotower.models.ranking_lists import RankingLists

N_LISTS, SIZE, WIDTH = 300, 20, 5


def training(seed: int = 0) -> TrainingLists:
    """Bought is a high first number, or a low second one where the third is not 0; the last place is padding."""
    random = np.random.default_rng(seed)
    numbers = random.normal(size=(N_LISTS, SIZE, WIDTH)).astype(np.float16)
    numbers[:, :, 2] = random.random((N_LISTS, SIZE)) < 0.5
    numbers[:, :, 3] *= 1e-6  # tiny numbers, which half precision rounds
    bought = (numbers[:, :, 0] > 0.5) | ((numbers[:, :, 2] > 0) & (numbers[:, :, 1] < -0.5))
    weight = np.ones((N_LISTS, SIZE), np.float32)
    weight[:, -1] = 0
    rows = np.zeros(N_LISTS, np.int64)
    candidates = np.zeros((N_LISTS, SIZE), np.int32)
    labels = bought.astype(np.float32)
    return TrainingLists(RankingLists(rows, rows, rows, candidates, labels, labels, weight), numbers)


@pytest.fixture(scope="module")
def booster() -> lightgbm.Booster:
    return grow(training(), 30, seed=1)


def test_the_graph_scores_as_lightgbm_does(booster: lightgbm.Booster) -> None:
    numbers = training(1).numbers.astype(np.float32)
    expected = booster.predict(numbers.reshape(-1, WIDTH), raw_score=True).reshape(N_LISTS, SIZE)
    found = tf.function(BoostedTrees(booster))(tf.constant(numbers)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert len(np.unique(found.round(3))) > 50


@pytest.mark.parametrize("candidates", [1, 7, 8, 9, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_blocks_of_every_size_score_alike(booster: lightgbm.Booster, candidates: int) -> None:
    numbers = training(4).numbers.reshape(-1, WIDTH)[:candidates].astype(np.float32)
    found = BoostedTrees(booster)(tf.constant(numbers[np.newaxis])).numpy()[0]
    np.testing.assert_allclose(found, booster.predict(numbers, raw_score=True), rtol=1e-5, atol=1e-5)


def test_tiny_and_huge_numbers_go_where_lightgbm_sends_them(booster: lightgbm.Booster) -> None:
    limits = np.array([0.0, -0.0, 6e-8, -6e-8, 65504, -65504, np.inf, -np.inf], np.float16)
    numbers = np.stack(np.meshgrid(*[limits] * 3, [0.0], [0.0]), axis=-1).reshape(1, -1, WIDTH).astype(np.float32)
    expected = booster.predict(numbers[0], raw_score=True)
    np.testing.assert_allclose(BoostedTrees(booster)(tf.constant(numbers))[0], expected, rtol=1e-5, atol=1e-5)


def test_a_number_at_a_threshold_goes_left_as_in_lightgbm(booster: lightgbm.Booster) -> None:
    nodes = booster.trees_to_dataframe().dropna(subset=["threshold"])
    at = nodes.threshold.to_numpy()
    features = nodes.split_feature.str.removeprefix("Column_").astype(int).to_numpy()
    numbers = np.zeros((1, len(at), WIDTH), np.float16)
    numbers[0, np.arange(len(at)), features] = at  # rounded, as a request's numbers are
    expected = booster.predict(numbers[0].astype(np.float32), raw_score=True)
    np.testing.assert_allclose(
        BoostedTrees(booster)(tf.constant(numbers, tf.float32))[0], expected, rtol=1e-5, atol=1e-5
    )


def test_what_decides_is_learned_and_padding_is_not() -> None:
    lists = training()
    lists.lists.bought[:, -1] = 1.0 - lists.lists.bought[:, -1]
    scores = BoostedTrees(grow(lists, 30, seed=1))(tf.constant(training(2).numbers, tf.float32)).numpy()
    bought = training(2).lists.bought > 0
    assert (scores > 0)[bought].mean() > 0.98
    assert (scores > 0)[~bought].mean() < 0.02


def test_one_seed_grows_the_same_trees(booster: lightgbm.Booster) -> None:
    assert grow(training(), 30, seed=1).model_to_string() == booster.model_to_string()
    assert grow(training(), 30, seed=2).model_to_string() != booster.model_to_string()


def test_a_saved_model_scores_the_same(booster: lightgbm.Booster, tmp_path: Path) -> None:
    module = BoostedTrees(booster)
    numbers = tf.constant(training(3).numbers[:2], tf.float32)
    score = tf.function(module).get_concrete_function(tf.TensorSpec([None, None, WIDTH]))
    tf.saved_model.save(module, str(tmp_path), signatures=score)
    (loaded,) = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](numbers).values()
    np.testing.assert_array_equal(loaded, module(numbers))


def test_no_lists_are_no_scores(booster: lightgbm.Booster) -> None:
    assert BoostedTrees(booster)(tf.zeros([0, 4, WIDTH])).shape == (0, 4)


def test_a_split_by_labels_is_refused() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 9, 500)
    data = lightgbm.Dataset(labels[:, np.newaxis], np.isin(labels, [1, 4, 7]), categorical_feature=[0])
    booster = lightgbm.train({**SETTINGS, "min_data_in_leaf": 5, "min_data_per_group": 5}, data, 2)
    with pytest.raises(ValueError, match="found a split by '==', expected numeric features alone"):
        BoostedTrees(booster)
