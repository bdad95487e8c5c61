"""The ranking network: what padding does, its losses by hand, and what its context features are."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.features.model_choices import MultiTask
from twotower.models.ranking import Ranking, RankingNetwork, listwise_loss
from twotower.models.tables import Catalogue

BRANDS = Encoding("item_brand", "index", 3)
ENCODINGS = [BRANDS, Encoding("item_words", "indices", 4), Encoding("item_price", "number", 1)]
CATALOGUE = Catalogue(
    ids=np.array([b"a", b"b", b"c"], dtype=object),
    features={
        "item_brand": np.array([0, 0, 2]),
        "item_words": np.array([[1, -1], [2, 3], [-1, -1]]),
        "item_price": np.array([0.5, -0.5, 0.0], np.float32),
    },
    encodings=ENCODINGS,
)
N_ITEMS = len(CATALOGUE)
WIDTH = 4


@pytest.fixture
def network() -> RankingNetwork:
    tf.keras.utils.set_random_seed(1)
    return RankingNetwork([Encoding("context_hour", "index", 25)], CATALOGUE, WIDTH, units=[8], crosses=2)


def scores(
    network: RankingNetwork, candidates: list[int], numbers: npt.NDArray[np.float32], hour: int = 0
) -> npt.NDArray[Any]:
    """[candidates, 2] scores of both tasks; ``numbers`` [candidates, WIDTH]."""
    features = {"context_hour": tf.constant([hour], tf.int64)}
    found = network(features, tf.constant([candidates], tf.int32), tf.constant(numbers[np.newaxis]))
    return np.stack([found["bought"][0], found["quantity"][0]], axis=1)


def test_a_candidate_s_score_does_not_depend_on_the_others(network: RankingNetwork) -> None:
    numbers = np.random.default_rng(0).normal(size=(4, WIDTH)).astype(np.float32)
    candidates = [0, N_ITEMS, 1, 2]
    together = scores(network, candidates, numbers)
    assert np.isfinite(together).all()
    for place, candidate in enumerate(candidates):
        alone = scores(network, [candidate], numbers[[place]])
        np.testing.assert_allclose(alone[0], together[place], atol=1e-6)


def test_item_numbers_and_context_all_matter(network: RankingNetwork) -> None:
    numbers = np.zeros((3, WIDTH), np.float32)
    base = scores(network, [0, 1, 2], numbers)
    assert len(np.unique(base[:, 0])) == 3
    assert (scores(network, [0, 1, 2], numbers, hour=7) != base).all()
    assert (scores(network, [0, 1, 2], numbers + 1) != base).all()


def test_numbers_are_standardised(network: RankingNetwork) -> None:
    numbers = np.random.default_rng(0).normal(size=(50, WIDTH)).astype(np.float32)
    before = scores(network, [0] * 50, numbers)
    scaled = (numbers - numbers.mean(axis=0)) / numbers.std(axis=0)
    expected = scores(network, [0] * 50, scaled)
    network.standardise_by(numbers)
    np.testing.assert_allclose(scores(network, [0] * 50, numbers), expected, atol=1e-5)
    assert np.abs(before - expected).max() > 1e-3
    # One far value cannot carry the score away.
    far, farther = (scores(network, [0], np.full((1, WIDTH), value, np.float32)) for value in (1e3, 1e6))
    np.testing.assert_array_equal(far, farther)


def test_a_number_that_never_varies_is_harmless(network: RankingNetwork) -> None:
    network.standardise_by(np.ones((9, WIDTH), np.float16))
    assert np.isfinite(scores(network, [0], np.zeros((1, WIDTH), np.float32))).all()


INPUTS = {
    "candidates": tf.constant([[0, 1, 2]], tf.int32),
    "numbers": tf.constant(np.random.default_rng(0).normal(size=(1, 3, WIDTH)), tf.float32),
    "bought": tf.constant([[1.0, 0.0, 0.0]]),
    "quantity": tf.constant([[3.0, 0.0, 0.0]]),
    "weight": tf.constant([[1.0, 2.0, 0.0]]),
}


@pytest.mark.parametrize("loss", ["pointwise", "listwise"])
def test_the_loss_by_hand(loss: Any) -> None:
    tf.keras.utils.set_random_seed(1)
    catalogue = Catalogue(np.array([b"a", b"b"], object), {}, [])
    network = RankingNetwork([], catalogue, WIDTH, units=[4], crosses=1)
    choice = MultiTask(loss=loss)
    model = Ranking(network, choice)
    found = network(INPUTS, INPUTS["candidates"], INPUTS["numbers"])
    (yes, no, _), (amount, _, _) = found["bought"][0].numpy(), found["quantity"][0].numpy()
    if loss == "pointwise":  # means over the three places, the padding included
        bought = (np.log1p(np.exp(-yes)) + 2 * np.log1p(np.exp(no))) / 3
    else:  # the other candidate stands for two
        bought = np.log(np.exp(yes) + 2 * np.exp(no)) - yes
    quantity = (amount - np.log(4)) ** 2 / 3
    assert float(model.compute_loss(INPUTS)) == pytest.approx(bought + choice.quantity_weight * quantity, rel=1e-5)
    padded = {**INPUTS, "quantity": tf.constant([[3.0, 7.0, 9.0]])}
    assert float(model.compute_loss(padded)) == float(model.compute_loss(INPUTS))  # what is not bought has no quantity


def test_the_listwise_loss_sees_differences_within_a_list_only() -> None:
    logits = tf.constant([[1.0, 2.0, 3.0], [0.5, -1.0, 9.0]])
    bought, weight = tf.constant([[1.0, 0, 1], [0, 1, 0]]), tf.constant([[1.0, 4, 1], [1, 1, 0]])
    loss = float(listwise_loss(logits, bought, weight))
    assert float(listwise_loss(logits + tf.constant([[5.0], [-3.0]]), bought, weight)) == pytest.approx(loss, rel=1e-5)
    assert float(listwise_loss(logits + tf.constant([[0.0, 0, 0], [0, 0, 7]]), bought, weight)) == pytest.approx(loss)
    totals = [np.log(np.e + 4 * np.e**2 + np.e**3), np.log(np.exp(0.5) + np.exp(-1))]
    assert loss == pytest.approx((totals[0] - 1 + totals[0] - 3 + totals[1] + 1) / 3, rel=1e-5)
