"""The sampled softmax: which candidates count, and values by hand."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from twotower.models.sampled_softmax import first_places, inclusion_probability, softmax_loss


def test_a_candidate_counts_once() -> None:
    found = first_places(tf.constant([5, 7, 5, 7, 9, 9]), 10).numpy().tolist()
    assert found == [True, True, False, False, True, False]


def test_the_probability_to_be_drawn_at_all() -> None:
    # Both items are drawn 2 * 0.5 + 1 / 2 times on average, one of share 0 half a time.
    found = inclusion_probability(tf.constant([0.5, 0.0]), 2, 1, 2).numpy()
    np.testing.assert_allclose(found, [1 - np.exp(-1.5), 1 - np.exp(-0.5)], rtol=1e-6)


def loss(scores: dict[int, float], rows: list[int], queries: int, each: int, hardness: float = 0.0) -> float:
    """Of queries that score an item as ``scores`` says, whoever asks."""
    candidates = tf.constant([[scores[row]] for row in rows])
    return float(
        softmax_loss(
            tf.ones([queries, 1]), candidates, tf.constant(rows), tf.zeros(len(rows)),
            each=each, n_items=10, hardness=hardness,
        )
    )  # fmt: skip


SCORES = {3: 1.0, 5: 0.5, 7: -0.5, 9: 0.2}


def softmax(positive: int, negatives: list[int]) -> float:
    return float(np.log(sum(np.exp(SCORES[row]) for row in [positive, *negatives])) - SCORES[positive])


def test_repeats_and_own_positives_are_no_negatives() -> None:
    # Queries buy 5, 7 and 5; the uniform draws are 7, 9 and 9.
    expected = np.mean([softmax(5, [7, 9]), softmax(7, [5, 9]), softmax(5, [7, 9])])
    assert loss(SCORES, [5, 7, 5, 7, 9, 9], 3, 1) == pytest.approx(expected, rel=1e-5)


def test_positives_of_one_query_are_not_each_others_negatives() -> None:
    # One query buys 5 and 7, the other 3 and 5.
    expected = np.mean([softmax(5, [3, 9]), softmax(7, [3, 9]), softmax(3, [7, 9]), softmax(5, [7, 9])])
    assert loss(SCORES, [5, 7, 3, 5, 9], 2, 2) == pytest.approx(expected, rel=1e-5)


def test_without_negatives_there_is_no_loss() -> None:
    assert loss(SCORES, [5, 5], 2, 1) == 0


def test_hard_negatives_weigh_by_their_scores() -> None:
    negatives = np.exp([SCORES[7], SCORES[9]])
    weights = negatives**2.0
    expected = np.log(np.exp(SCORES[5]) + (negatives * weights).sum() / weights.mean()) - SCORES[5]
    assert loss(SCORES, [5, 7, 9], 1, 1, hardness=2.0) == pytest.approx(expected, rel=1e-5)
    assert loss(SCORES, [5, 7, 9], 1, 1, hardness=1e-6) == pytest.approx(loss(SCORES, [5, 7, 9], 1, 1), rel=1e-4)


def test_compiled_and_plain_agree() -> None:
    random = np.random.default_rng(1)
    rows = tf.constant(random.integers(0, 30, 24), tf.int32)
    arguments: list[Any] = [
        tf.constant(random.normal(size=(4, 5)), tf.float32),
        tf.constant(random.normal(size=(24, 5)), tf.float32),
        rows,
        tf.constant(np.log(random.uniform(0.1, 1, 24)), tf.float32),
    ]
    compiled = tf.function(softmax_loss, jit_compile=True)
    for hardness in (0.0, 0.5):
        plain = softmax_loss(*arguments, each=4, n_items=30, hardness=hardness)
        np.testing.assert_allclose(compiled(*arguments, each=4, n_items=30, hardness=hardness), plain, rtol=1e-5)
