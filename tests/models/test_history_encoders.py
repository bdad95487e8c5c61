"""History encoders: what weighs more, what does not count, and that nothing looks ahead."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from twotower.models.history_encoders import (
    HALF_LIVES,
    HISTORY_ENCODERS,
    HistoryAttention,
    HistoryMeans,
    HistorySelfAttention,
)

N_ITEMS = 5


class TestHistoryMeans:
    def test_recent_events_weigh_more_by_the_half_life(self) -> None:
        # Events 0 and 7 days old: under the half-life of 7 days they weigh 1 and 1/2, so the mean of 0 and 3 is 1.
        found = HistoryMeans(5)(tf.constant([[[0.0], [3.0]]]), tf.constant([[1, 2]]), tf.constant([[0.0, 7.0]]))
        expected = [3 * (w := 0.5 ** (7 / half_life)) / (1 + w) for half_life in HALF_LIVES]
        assert expected[0] == 1
        np.testing.assert_allclose(found[0], expected, rtol=1e-5)

    def test_unknown_items_and_padding_do_not_count(self) -> None:
        encoder = HistoryMeans(5)
        found = encoder(tf.constant([[[2.0], [9.0]]] * 2), tf.constant([[1, 5], [5, 5]]), tf.zeros([2, 2]))
        np.testing.assert_allclose(found, [[2, 2, 2], [0, 0, 0]], rtol=1e-6)

    def test_an_empty_history_is_zero(self) -> None:
        assert HistoryMeans(5)(tf.zeros([2, 0, 3]), tf.zeros([2, 0], tf.int32), tf.zeros([2, 0])).shape == (2, 9)

    def test_ancient_events_do_not_overflow(self) -> None:
        found = HistoryMeans(5)(tf.constant([[[2.0]]]), tf.constant([[1]]), tf.constant([[100_000.0]]))
        assert np.isfinite(found).all()


@pytest.mark.parametrize("name", sorted(HISTORY_ENCODERS))
class TestEveryEncoder:
    def vectors(self, items: list[list[int]]) -> tf.Tensor:
        table = np.random.default_rng(1).normal(size=(N_ITEMS + 1, 4)).astype(np.float32)
        return tf.gather(tf.constant(table), tf.constant(items))

    def encode(self, layer: Any, items: list[list[int]], ages: list[list[float]]) -> Any:
        return layer(self.vectors(items), tf.constant(items), tf.constant(ages)).numpy()

    def test_padding_changes_nothing(self, name: Any) -> None:
        layer = HISTORY_ENCODERS[name](N_ITEMS)
        short = self.encode(layer, [[1, 2]], [[1.0, 2.0]])
        padded = self.encode(layer, [[1, 2, 5, 5]], [[1.0, 2.0, 0.0, 0.0]])
        np.testing.assert_allclose(padded, short, atol=1e-5)
        assert not np.allclose(self.encode(layer, [[1, 2, 3, 5]], [[1.0, 2.0, 3.0, 0.0]]), short, atol=1e-5)

    def test_an_unknown_item_is_passed_over(self, name: Any) -> None:
        layer = HISTORY_ENCODERS[name](N_ITEMS)
        known = self.encode(layer, [[1, 2]], [[1.0, 2.0]])
        np.testing.assert_allclose(self.encode(layer, [[5, 1, 5, 2]], [[0.5, 1.0, 1.5, 2.0]]), known, atol=1e-5)

    def test_an_empty_history_is_zero(self, name: Any) -> None:
        layer = HISTORY_ENCODERS[name](N_ITEMS)
        assert self.encode(layer, [[5, 5]], [[0.0, 0.0]]).any() == np.False_
        none = layer(tf.zeros([2, 0, 4]), tf.zeros([2, 0], tf.int32), tf.zeros([2, 0])).numpy()
        assert none.shape[0] == 2
        assert not none.any()


def test_attention_starts_from_the_means() -> None:
    vectors = tf.constant(np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32))
    items, ages = tf.constant([[1, 2, 3], [4, 5, 5]]), tf.constant([[1.0, 9.0, 30.0], [2.0, 0.0, 0.0]])
    attended, means = (layer(N_ITEMS)(vectors, items, ages) for layer in (HistoryAttention, HistoryMeans))
    np.testing.assert_allclose(attended, means, rtol=1e-4, atol=1e-6)


def test_self_attention_knows_the_order_and_the_days_between() -> None:
    layer = HistorySelfAttention(N_ITEMS)
    table = tf.constant(np.random.default_rng(1).normal(size=(N_ITEMS + 1, 4)).astype(np.float32))

    def encode(items: list[int], ages: list[float]) -> Any:
        return layer(tf.gather(table, [items]), tf.constant([items]), tf.constant([ages])).numpy()

    found = encode([1, 2, 3], [1.0, 5.0, 9.0])
    assert not np.allclose(encode([2, 1, 3], [1.0, 5.0, 9.0]), found, atol=1e-4)
    assert not np.allclose(encode([1, 2, 3], [1.0, 50.0, 51.0]), found, atol=1e-4)
    # How long ago the newest was is not its business: the means and the context know.
    np.testing.assert_allclose(encode([1, 2, 3], [11.0, 15.0, 19.0]), found, atol=1e-5)
