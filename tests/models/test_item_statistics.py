"""What a shop knows of its items at a moment: by hand, and nothing of what comes after."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features.timelines import Timelines
from twotower.models.item_statistics import NEVER_DAYS, item_statistics

DAY = 86_400
Event = tuple[int, int, int]  # user, item, day


def timelines(events: list[Event], n_users: int) -> Timelines:
    users, items, days = np.array(events, dtype=np.int64).reshape(-1, 3).T
    ones = np.ones(len(users), np.float32)
    return Timelines.from_events(users, items.astype(np.int32), days * DAY, ones, n_users)


# Seen from day 400; item 4 = out of vocabulary.
EVENTS: list[Event] = [
    *[(0, 0, 350), (0, 0, 390), (0, 0, 399)],
    *[(1, 0, 393), (1, 0, 393)],  # twice in one basket is not again
    *[(2, 0, 360), (2, 1, 310)],
    *[(1, 1, 309), (3, 1, 40), (2, 2, 10)],  # 360 and 390 days before
    *[(0, 4, 350), (3, 4, 380), (3, 1, 400), (3, 2, 401)],  # day 400 is not before
]
# Items 0 and 1 are of one brand, 2 of another; 3 was never bought, 4 stands for unknown.
BRANDS = np.array([0, 0, 1, 2, 2], np.int32)


def test_by_hand() -> None:
    found = item_statistics(timelines(EVENTS, 4), 400 * DAY, 4, {"brand": BRANDS})
    expected = {
        "buyers": [3, 3, 1, 0, 0],
        "buyers_7": [2, 0, 0, 0, 0],  # day 393 is 7 days before
        "buyers_14": [2, 0, 0, 0, 0],
        "buyers_30": [2, 0, 0, 0, 0],
        "buyers_90": [3, 1, 0, 0, 0],  # day 310 is 90 days before, 309 is not
        "new_7": [1, 0, 0, 0, 0],
        "new_30": [1, 0, 0, 0, 0],
        "new_90": [3, 1, 0, 0, 0],
        "year_ago": [0, 1, 0, 0, 0],
        "age": [50, 360, 390, NEVER_DAYS, NEVER_DAYS],
        "idle": [1, 90, 390, NEVER_DAYS, NEVER_DAYS],
        "brand_sold": [4, 4, 0, 0, 0],  # lines of the last 30 days
    }
    for name, values in expected.items():
        np.testing.assert_allclose(np.expm1(found[name]), values, rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["trend"][:2], np.log([3 / 4, 1 / 2]), rtol=1e-5)
    np.testing.assert_allclose(found["season"], np.log([1, 2, 1 / 2, 1, 1]), rtol=1e-5)
    np.testing.assert_allclose(found["brand_part"][:3], np.log([3 / 5, 1 / 5, 1]), rtol=1e-5)


def test_rates_are_shrunk_to_the_average() -> None:
    found = item_statistics(timelines(EVENTS, 4), 400 * DAY, 4, {})
    # Item 0 has 3 buyers of whom 1 bought again; of all 7 pairs of user and item it is 1.
    np.testing.assert_allclose(found["again"][:2], [(1 + 2 / 7) / 5, (2 / 7) / 5], rtol=1e-5)
    assert found["again"][3] == pytest.approx(1 / 7)
    # Users 0 and 2 had item 0 more than 30 days ago, and user 0 bought it since; of 6 such pairs it is 1.
    np.testing.assert_allclose(found["hazard"][:2], [(1 + 5 / 6) / 7, (5 / 6) / 8], rtol=1e-5)
    # Gaps of 40 and 9 days are all there are.
    gap = (np.log1p(40) + np.log1p(9)) / 2
    np.testing.assert_allclose(found["cycle"], gap, rtol=1e-5)


def test_nothing_known() -> None:
    found = item_statistics(timelines([(0, 1, 5)], 1), 5 * DAY, 2, {"brand": np.zeros(3, np.int32)})
    never = np.log1p(NEVER_DAYS)
    for name, values in found.items():
        np.testing.assert_allclose(values, never if name in ("age", "idle") else 0, rtol=1e-6, err_msg=name)


@settings(max_examples=50, deadline=None)
@given(
    *[st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 20)), max_size=30)] * 2,
    st.integers(0, 21),
)
def test_what_happens_at_or_after_the_moment_changes_nothing(
    events: list[Event], changes: list[Event], at: int
) -> None:
    replaced = [e for e in events if e[2] < at] + [e for e in changes if e[2] >= at]
    before, after = (item_statistics(timelines(each, 4), at * DAY, 4, {"brand": BRANDS}) for each in (events, replaced))
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], name)
