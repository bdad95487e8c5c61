"""Repeat features against a plain Python reading of their definition."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.models.repeat_features import GROUP_FEATURES, HALF_LIVES, NEVER, names, repeat_features

N_ITEMS = 5
# Items 0 and 1 share a group, 2 and 3 another; item 4 has none.
GROUP_OF = [0, 0, 1, 1, 2, 2]
Event = tuple[int, float]  # item, age in days
Features = dict[str, npt.NDArray[np.float32]]


def features(histories: Sequence[Sequence[Event]], candidates: list[list[int]]) -> Features:
    """Histories are given in any order, and padded to a common length."""
    length = max((len(history) for history in histories), default=0)
    padded = [
        [*sorted(history, key=lambda event: event[1]), *[(N_ITEMS, 0.0)] * (length - len(history))]
        for history in histories
    ]
    events = np.array(padded, dtype=np.float32).reshape(len(histories), length, 2)
    found = repeat_features(
        tf.constant(events[:, :, 0], tf.int32),
        tf.constant(events[:, :, 1]),
        tf.constant(candidates, tf.int32),
        N_ITEMS,
        [tf.constant(GROUP_OF)],
    )
    return named(found)


def named(found: tf.Tensor) -> Features:
    return dict(zip(names(["brand"]), np.moveaxis(found.numpy(), 2, 0), strict=True))


def counted(mine: list[float], everything: list[float]) -> dict[str, float]:
    """The features of distinct ages ``mine``, ascending, among all of the user's baskets ``everything``."""
    gaps = np.diff(mine)
    mean = float(gaps.mean()) if len(gaps) else 0.0
    recent = {h: sum(0.5 ** (age / h) for age in mine) for h in HALF_LIVES}
    whole = {h: sum(0.5 ** (age / h) for age in everything) for h in HALF_LIVES}
    logs = {
        "count": len(mine),
        **{f"recent_{h}": value for h, value in recent.items()},
        "last": min(mine, default=NEVER),
        "first": max(mine, default=NEVER),
        "gap": mean,
        "latest_gap": gaps[0] if len(gaps) else 0.0,
        "trips": sum(age < mine[0] for age in everything) if mine else NEVER,
        "year_ago": sum(304 < age <= 395 for age in mine),
    }
    return {
        **{name: math.log1p(value) for name, value in logs.items()},
        **{f"part_{h}": value / whole[h] if whole[h] else 0.0 for h, value in recent.items()},
        "spread": min(float(gaps.std()) / mean, 5.0) if mean else 0.0,
        "due": min(mine[0] / mean, 10.0) if mean else 0.0,
        "share": len(mine) / sum(age <= mine[-1] for age in everything) if mine else 0.0,
    }


def naive(history: Sequence[Event], candidate: int) -> dict[str, float]:
    known = [(item, age) for item, age in history if item < N_ITEMS]
    baskets = sorted({age for _, age in known})
    mine = sorted({age for item, age in known if item == candidate})
    found = {f"item_{name}": value for name, value in counted(mine, baskets).items()}
    group = GROUP_OF[candidate]
    likes = [(item, age) for item, age in known if GROUP_OF[item] == group < 2]
    of_group = sorted({age for _, age in likes})
    found |= {f"brand_{n}": v for n, v in counted(of_group, baskets).items() if n in GROUP_FEATURES}
    found["brand_own"] = len(mine) / len(of_group) if of_group else 0.0
    found["brand_distinct"] = math.log1p(len({item for item, _ in likes}))
    whole = counted(baskets, baskets)
    names = ["count", "last", "first", *(f"recent_{h}" for h in HALF_LIVES)]
    distinct = len({item for item, _ in known})
    found |= {f"user_{name}": whole[name] for name in names}
    found |= {"user_lines": math.log1p(len(known)), "user_distinct": math.log1p(distinct)}
    return {**found, "user_variety": distinct / len(known) if known else 0.0}


# Quarters of days are exact in float32.
AGES = st.integers(0, 20_000).map(lambda quarters: quarters / 4)
HISTORY = st.lists(st.tuples(st.integers(0, N_ITEMS), AGES | st.sampled_from([1.0, 2.0, 300.0])), max_size=10)


@settings(max_examples=60, deadline=None)
@given(st.lists(HISTORY, min_size=1, max_size=4))
def test_features_are_their_definition(histories: list[list[Event]]) -> None:
    candidates = [list(range(N_ITEMS + 1))] * len(histories)
    found = features(histories, candidates)
    for row, history in enumerate(histories):
        for place, candidate in enumerate(candidates[row]):
            expected = naive(history, candidate)
            assert set(expected) == set(found)
            for name, value in expected.items():
                assert found[name][row, place] == pytest.approx(value, rel=1e-4, abs=1e-5), (name, candidate)


def test_a_known_case() -> None:
    # Item 1 thrice, 10, 30 and 70 days ago, in the second, third and fourth latest of the five baskets.
    history = [(1, 10.0), (2, 4.0), (1, 30.0), (1, 30.0), (1, 70.0), (3, 90.0), (3, 10.0)]
    found = {name: values[0, 0] for name, values in features([history], [[1]]).items()}
    logs = {"count": 3, "last": 10, "first": 70, "gap": 30, "latest_gap": 20, "trips": 1}
    for name, value in logs.items():
        assert np.expm1(found[f"item_{name}"]) == pytest.approx(value, rel=1e-4), name
    assert found["item_due"] == pytest.approx(1 / 3)
    assert found["item_spread"] == pytest.approx(10 / 30, rel=1e-4)
    assert found["item_share"] == pytest.approx(3 / 4)
    assert np.expm1(found["user_count"]) == pytest.approx(5)
    assert np.expm1(found["user_lines"]) == pytest.approx(7)


def test_lines_of_one_basket_count_once() -> None:
    once, twice = (features([history], [[1]]) for history in ([(1, 5.0)], [(1, 5.0), (1, 5.0)]))
    for name, values in once.items():
        if name not in ("user_lines", "user_variety"):
            assert values == pytest.approx(twice[name], rel=1e-6), name


def test_users_do_not_share_events() -> None:
    histories = [[(0, 1.0)], [(1, 2.0), (1, 9.0)]]
    together = features(histories, [[0, 1], [0, 1]])
    for row, history in enumerate(histories):
        for name, values in features([history], [[0, 1]]).items():
            # The last bit of a power is another beside other users, where TensorFlow computes several at once.
            np.testing.assert_allclose(together[name][row], values[0], rtol=1e-6, err_msg=name)


def test_padding_anywhere_is_no_event() -> None:
    items, ages = tf.constant([[N_ITEMS, 0, N_ITEMS, 2]]), tf.constant([[0.0, 3.0, 0.0, 4.0]])
    found = named(repeat_features(items, ages, tf.constant([[0, 2, N_ITEMS]]), N_ITEMS, [tf.constant(GROUP_OF)]))
    for name, values in features([[(0, 3.0), (2, 4.0)]], [[0, 2, N_ITEMS]]).items():
        np.testing.assert_array_equal(found[name], values, name)


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("length", [0, 3])
@pytest.mark.parametrize("width", [0, 2])
def test_nothing_at_all(batch: int, length: int, width: int) -> None:
    # No event and no candidate anywhere once asked for a negative number of segments.
    items, ages = tf.fill([batch, length], N_ITEMS), tf.zeros([batch, length])
    found = repeat_features(items, ages, tf.zeros([batch, width], tf.int32), N_ITEMS, [tf.constant(GROUP_OF)])
    assert found.shape == (batch, width, len(names(["brand"])))
