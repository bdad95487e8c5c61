"""Repeat features against a plain Python reading of their definition."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.models.repeat_features import (
    GROUP_WIDTH,
    HALF_LIVES,
    ITEM_WIDTH,
    NEVER_DAYS,
    group_features,
    item_features,
)

N_ITEMS = 4
Event = tuple[int, float]  # item, age in days


def of_items(histories: list[list[Event]], candidates: list[list[int]]) -> npt.NDArray[np.float32]:
    length = max((len(history) for history in histories), default=0)
    padded = [[*history, *[(N_ITEMS, 0.0)] * (length - len(history))] for history in histories]
    events = np.array(padded, dtype=np.float32).reshape(len(histories), length, 2)
    found = item_features(
        tf.constant(events[:, :, 0], tf.int32), tf.constant(events[:, :, 1]), tf.constant(candidates, tf.int32), N_ITEMS
    )
    return np.asarray(found)


def naive_item(history: list[Event], candidate: int) -> list[float]:
    ages = [age for item, age in history if item == candidate and candidate < N_ITEMS]
    if not ages:
        never = math.log1p(NEVER_DAYS)
        return [0.0, *[0.0] * len(HALF_LIVES), never, never, 0.0, 0.0]
    gap = (max(ages) - min(ages)) / (len(ages) - 1) if len(ages) > 1 else 0.0
    return [
        math.log1p(len(ages)),
        *(math.log1p(sum(0.5 ** (age / half_life) for age in ages)) for half_life in HALF_LIVES),
        math.log1p(min(ages)),
        math.log1p(max(ages)),
        math.log1p(gap),
        min(min(ages) / gap, 10.0) if gap else 0.0,
    ]


def naive_group(history: list[tuple[int, bool, float]], candidate: int) -> list[float]:
    counted = [(group, age) for group, valid, age in history if valid]
    ages = [age for group, age in counted if group == candidate]
    recent = sum(0.5 ** (age / 30) for age in ages)
    return [math.log1p(len(ages)), math.log1p(recent), len(ages) / len(counted) if counted else 0.0]


# Quarters of days are exact in float32.
AGES = st.integers(0, 2_000).map(lambda quarters: quarters / 4)
HISTORY = st.lists(st.tuples(st.integers(0, N_ITEMS), AGES), max_size=8)
BATCH = st.integers(1, 4).flatmap(
    lambda n: st.tuples(
        st.lists(HISTORY, min_size=n, max_size=n),
        st.integers(0, 5).flatmap(
            lambda width: st.lists(
                st.lists(st.integers(0, N_ITEMS), min_size=width, max_size=width), min_size=n, max_size=n
            )
        ),
    )
)


@settings(max_examples=60, deadline=None)
@given(BATCH)
def test_item_features_are_their_definition(batch: tuple[list[list[Event]], list[list[int]]]) -> None:
    histories, candidates = batch
    found = of_items(histories, candidates)
    assert found.shape == (len(histories), len(candidates[0]), ITEM_WIDTH)
    expected = [[naive_item(h, c) for c in asked] for h, asked in zip(histories, candidates, strict=True)]
    np.testing.assert_allclose(found, np.array(expected).reshape(found.shape), rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda n: st.lists(
            st.lists(st.tuples(st.integers(0, 3), st.booleans(), AGES), min_size=5, max_size=5), min_size=n, max_size=n
        )
    )
)
def test_group_features_are_their_definition(histories: list[list[tuple[int, bool, float]]]) -> None:
    candidates = np.tile(np.arange(4), (len(histories), 1))
    events = np.array(histories, dtype=np.float32)
    found = group_features(
        tf.constant(events[:, :, 0], tf.int64),
        tf.constant(events[:, :, 1] > 0),
        tf.constant(events[:, :, 2]),
        tf.constant(candidates),
        4,
    )
    assert found.shape == (len(histories), 4, GROUP_WIDTH)
    expected = [[naive_group(history, group) for group in range(4)] for history in histories]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_known_case() -> None:
    # Item 1 thrice, 10, 30 and 70 days ago: last 10, first 70, mean gap (70 - 10) / 2 = 30, due 10 / 30.
    (((found, absent),),) = [of_items([[(1, 10.0), (2, 11.0), (1, 30.0), (1, 70.0)]], [[1, 3]])]
    decayed = [sum(2 ** (-age / half_life) for age in (10, 30, 70)) for half_life in (7, 30, 120)]
    np.testing.assert_allclose(np.expm1(found[:7]), [3, *decayed, 10, 70, 30], rtol=1e-5)
    assert found[7] == pytest.approx(1 / 3)
    np.testing.assert_allclose(np.expm1(absent[:7]), [0, 0, 0, 0, NEVER_DAYS, NEVER_DAYS, 0], rtol=1e-5)
    assert absent[7] == 0


def test_one_purchase_and_one_basket_have_no_gap() -> None:
    once, basket = of_items([[(1, 5.0)], [(1, 5.0), (1, 5.0)]], [[1], [1]])[:, 0]
    assert once[6:].tolist() == basket[6:].tolist() == [0, 0]
    assert np.expm1(basket[0]) == pytest.approx(2)


def test_users_do_not_share_events() -> None:
    alone = [of_items([history], [[0, 1]]) for history in ([(0, 1.0)], [(1, 2.0), (1, 9.0)])]
    np.testing.assert_array_equal(of_items([[(0, 1.0)], [(1, 2.0), (1, 9.0)]], [[0, 1], [0, 1]]), np.concatenate(alone))


def test_padding_is_no_event_and_no_candidate() -> None:
    history: list[Event] = [(0, 3.0), (2, 4.0)]
    padded: list[Event] = [(N_ITEMS, 0.0), *history, (N_ITEMS, 0.0)]
    np.testing.assert_array_equal(of_items([history], [[0, 2]]), of_items([padded], [[0, 2]]))
    np.testing.assert_allclose(of_items([padded], [[N_ITEMS]])[0, 0], naive_item([], N_ITEMS), rtol=1e-6)


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("length", [0, 3])
@pytest.mark.parametrize("width", [0, 2])
def test_nothing_at_all(batch: int, length: int, width: int) -> None:
    # No event and no candidate anywhere once asked for a negative number of segments.
    items, ages = tf.fill([batch, length], N_ITEMS), tf.zeros([batch, length])
    candidates = tf.zeros([batch, width], tf.int32)
    assert item_features(items, ages, candidates, N_ITEMS).shape == (batch, width, ITEM_WIDTH)
    valid = tf.zeros([batch, length], tf.bool)
    assert group_features(tf.zeros_like(items), valid, ages, candidates, 3).shape == (batch, width, GROUP_WIDTH)
