import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features.timelines import Timelines
from twotower.models.baselines import BoughtMostOften, Popularity

Event = tuple[int, int, int]  # user, item, time


def timelines(events: list[Event], n_users: int) -> Timelines:
    users, items, times = np.array(events, dtype=np.int64).reshape(-1, 3).T
    return Timelines.from_events(users, items.astype(np.int32), times, np.ones(len(users), np.float32), n_users)


@pytest.fixture
def train() -> Timelines:
    """Item 0 has one buyer, 1 three, 2 two, 3 none; 4 is out of vocabulary."""
    return timelines(
        [
            *[(0, 0, 1), (0, 0, 1), (0, 0, 2), (0, 1, 2), (0, 2, 3), (0, 2, 3)],
            *[(1, 1, 1), (1, 2, 5), (1, 4, 5)],
            (2, 1, 7),
        ],
        n_users=3,
    )


def test_popularity_counts_distinct_users(train: Timelines) -> None:
    scores = Popularity(train, n_items=4).score_block(np.array([2, 0]))
    assert scores.tolist() == [[1, 3, 2, 0]] * 2


def test_bought_most_often_counts_distinct_baskets(train: Timelines) -> None:
    scores = BoughtMostOften(train, train, n_items=4).score_block(np.array([2, 0]))
    # User 2 bought 1 once. User 0: item 0 in the baskets of times 1 and 2, 1 in one, 2 in one (two lines of it).
    assert np.floor(scores).tolist() == [[0, 1, 0, 0], [2, 1, 1, 0]]
    # Ties by buyers: 1 before 2 for user 0. Never bought items by buyers: 2, 0, 3 for user 2.
    assert np.argsort(-scores, axis=1).tolist() == [[1, 2, 0, 3], [0, 1, 2, 3]]


def test_a_user_without_history_gets_the_popular_items(train: Timelines) -> None:
    nobody = timelines([], n_users=1)
    scores = BoughtMostOften(train, nobody, n_items=4).score_block(np.array([0]))
    assert np.argsort(-scores[0]).tolist() == [1, 2, 0, 3]


def test_baskets_of_two_users_at_one_time_are_two(train: Timelines) -> None:
    history = timelines([(0, 3, 5), (1, 3, 5)], n_users=2)
    scores = BoughtMostOften(train, history, n_items=4).score_block(np.array([0, 1]))
    assert scores[:, 3].tolist() == [1, 1]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 5)), max_size=30))
def test_order_agrees_with_a_plain_sort(events: list[Event]) -> None:
    n_items = 6
    train = timelines(events, n_users=4)
    buyers = [len({user for user, bought, _ in events if bought == item}) for item in range(n_items)]
    assert Popularity(train, n_items).buyers.tolist() == buyers
    rows = np.array([3, 1, 0, 2])
    scores = BoughtMostOften(train, train, n_items).score_block(rows)
    for row, user in enumerate(rows):
        baskets = [len({time for u, bought, time in events if (u, bought) == (user, item)}) for item in range(n_items)]
        order = np.lexsort((np.arange(n_items), np.negative(buyers), np.negative(baskets)))
        assert np.argsort(-scores[row], kind="stable").tolist() == order.tolist()
