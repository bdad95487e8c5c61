"""What is known of promotions at a moment: by hand, and nothing that was not known then."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features.promotions import Promotions
from twotower.models.promotion_statistics import promotion_statistics

DAY = 86_400
N_ITEMS = 3
Row = tuple[int, int, int, int]  # item, first day, days, strength


def promotions(rows: list[Row]) -> Promotions:
    items, starts, days, strengths = np.array(rows, np.int64).reshape(-1, 4).T
    return Promotions(
        items.astype(np.int32), starts * DAY, (starts + days) * DAY, {"size": strengths.astype(np.float32)}
    )


# Seen from day 100.
ROWS: list[Row] = [
    *[(0, 98, 7, 2), (0, 100, 1, 1), (0, 103, 7, 8)],  # two run at once, and one follows
    *[(1, 20, 10, 4), (1, 93, 7, 4)],  # the second ends with day 99
    *[(2, 111, 7, 1), (3, 98, 7, 5)],  # starts too late to be known; an item that is not in the catalogue
]


def test_by_hand() -> None:
    found = promotion_statistics(promotions(ROWS), 100 * DAY, N_ITEMS, known_days=10, horizon_days=20)
    expected: dict[str, list[float]] = {
        "size_now": [3, 0, 0, 0],
        "size_ahead": [(5 * 2 + 1 + 7 * 8) / 20, 0, 0, 0],
        "size_peak": [8, 0, 0, 0],
        "size_before": [2 * 2 / 28, 7 * 4 / 28, 0, 0],
        "size_usual": [2 * 2 / 80, 17 * 4 / 80, 0, 0],  # the first began on day 20
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
        assert found[name].dtype == np.float32


def test_what_is_planned_counts_as_far_as_it_is_known() -> None:
    far = promotion_statistics(promotions(ROWS), 100 * DAY, N_ITEMS, known_days=11, horizon_days=20)
    assert far["size_peak"].tolist() == [8, 0, 1, 0]
    today = promotion_statistics(promotions(ROWS), 100 * DAY, N_ITEMS, known_days=0, horizon_days=20)
    assert today["size_peak"].tolist() == [2, 0, 0, 0]
    np.testing.assert_allclose(today["size_ahead"], [11 / 20, 0, 0, 0], rtol=1e-6)


def test_nothing_known() -> None:
    found = promotion_statistics(promotions([]), 100 * DAY, N_ITEMS, known_days=31, horizon_days=31)
    assert {name: values.tolist() for name, values in found.items()} == {name: [0.0] * 4 for name in found}
    assert len(found) == 5


@settings(max_examples=50, deadline=None)
@given(
    *[
        st.lists(
            st.tuples(st.integers(0, N_ITEMS), st.integers(0, 30), st.integers(1, 9), st.integers(0, 3)), max_size=12
        )
    ]
    * 2,
    st.integers(0, 30),
    st.integers(0, 5),
)
def test_what_was_not_known_changes_nothing(rows: list[Row], changes: list[Row], at: int, known: int) -> None:
    replaced = [row for row in rows if row[1] <= at + known] + [row for row in changes if row[1] > at + known]
    before, after = (promotion_statistics(promotions(each), at * DAY, N_ITEMS, known, 7) for each in (rows, replaced))
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], name)
