"""The ranker's lists: which candidates, which labels, and what each stands for."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.queries import Queries
from twotower.models.ranking_lists import NoLists, RankingLists, Retrieve, build_lists, list_features
from twotower.models.tables import Users

DAY = 86_400
N_ITEMS = 10
Event = tuple[int, int, int, float]  # user, item, day, quantity


def shop_spec(**ranking: Any) -> Spec:
    return Spec.model_validate(
        {
            "name": "shop",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": "2017-12-01"},
            "ranking": {"horizon_days": 10, "list_size": 8, "history_length": 3, **ranking},
        }
    )


def people(events: list[Event], n_users: int) -> Users:
    users, items, days, quantities = np.array(events, dtype=np.float64).reshape(-1, 4).T
    history = Timelines.from_events(
        users.astype(np.int64),
        items.astype(np.int32),
        (days * DAY).astype(np.int64),
        quantities.astype(np.float32),
        n_users,
    )
    rows = np.arange(n_users)
    return Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0))


def retrieving(*items: int) -> Retrieve:
    def retrieve(
        users: npt.NDArray[np.int64], cuts: npt.NDArray[np.int64], times: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int32]:
        assert len(users) == len(cuts) == len(times)
        return np.tile(np.array(items, dtype=np.int32), (len(users), 1))

    return retrieve


def lists_of(
    events: list[Event],
    *,
    n_users: int = 1,
    at: tuple[int, ...] = (10,),
    until: int = 99,
    retrieved: tuple[int, ...] = (0, 1),
    limit: int = 99,
    **ranking: Any,
) -> RankingLists:
    return build_lists(
        shop_spec(**ranking),
        people(events, n_users),
        N_ITEMS,
        [day * DAY for day in at],
        until * DAY,
        retrieving(*retrieved),
        seed=1,
        limit=limit,
    )


def rows(lists: RankingLists, row: int = 0) -> dict[int, tuple[float, float, float]]:
    """Candidate to (bought, quantity, weight) of one list, without its padding."""
    columns = (lists.candidates, lists.bought, lists.quantity, lists.weight)
    values = zip(*(column[row].tolist() for column in columns), strict=True)
    return {item: (bought, quantity, weight) for item, bought, quantity, weight in values if item < N_ITEMS}


def test_a_snapshot_may_be_a_moment_of_each_users_own() -> None:
    events: list[Event] = [(0, 5, 1, 1), (0, 6, 4, 1), (1, 5, 1, 1), (1, 6, 4, 1), (1, 7, 9, 1), (2, 6, 3, 1)]
    moments = np.array([4, 9, 3]) * DAY
    lists = build_lists(shop_spec(), people(events, 3), N_ITEMS, [moments], 99 * DAY, retrieving(6, 7), 1, 9)
    # User 2 has no history at their moment.
    assert (lists.users.tolist(), lists.times.tolist(), lists.cuts.tolist()) == ([0, 1], [4 * DAY, 9 * DAY], [1, 4])
    bought = [{item for item, (yes, _, _) in rows(lists, row).items() if yes} for row in range(2)]
    assert bought == [{6}, {7}]


def test_of_many_users_some_have_a_list() -> None:
    events = [event for user in range(9) for event in ((user, 0, 5, 1.0), (user, 1, 12, 1.0 + user))]
    every, some = (lists_of(events, n_users=9, at=(10, 11), limit=limit) for limit in (9, 4))
    assert every.users.tolist() == [*range(9), *range(9)]
    first, second = some.users[:4].tolist(), some.users[4:].tolist()
    assert some.times.tolist() == [10 * DAY] * 4 + [11 * DAY] * 4
    for users in (first, second):
        assert users == sorted(set(users))
    # Each moment draws its own.
    assert first != second
    assert [rows(some, row)[1] for row in range(4)] == [(1, 1 + user, 1) for user in first]


def test_candidates_are_the_retrieved_and_the_own_items_before_the_snapshot() -> None:
    lists = lists_of([(0, 1, 1, 1), (0, 5, 2, 1), (0, 6, 3, 1), (0, 7, 9, 1), (0, 5, 10, 1), (0, 8, 12, 1)])
    # Own are the latest history_length = 3 before day 10; 8 is bought later but was no candidate.
    assert sorted(rows(lists)) == [0, 1, 5, 6, 7]
    assert {item for item, (bought, _, _) in rows(lists).items() if bought} == {5}
    assert (lists.users.tolist(), lists.times.tolist(), lists.cuts.tolist()) == ([0], [10 * DAY], [4])


def test_labels_are_of_the_horizon_only() -> None:
    days = {0: 9, 1: 10, 2: 19, 3: 20, 4: 25}  # from day 10 on and before day 20 counts
    lists = lists_of([(0, item, day, 1) for item, day in days.items()], retrieved=(0, 1, 2, 3, 4))
    assert {item: bought for item, (bought, _, _) in rows(lists).items()} == {0: 0, 1: 1, 2: 1, 3: 0, 4: 0}


def test_nothing_at_or_after_the_end_is_a_label() -> None:
    lists = lists_of([(0, 0, 9, 1), (0, 1, 14, 1), (0, 2, 15, 1)], retrieved=(0, 1, 2), until=15)
    assert {item for item, (bought, _, _) in rows(lists).items() if bought} == {1}


def test_a_retrieved_item_that_the_user_owns_is_one_candidate() -> None:
    lists = lists_of([(0, 1, 5, 1), (0, 1, 6, 1), (0, 1, 11, 1)], retrieved=(0, 1, N_ITEMS))
    assert lists.candidates[0].tolist().count(1) == 1
    assert sorted(rows(lists)) == [0, 1]


def test_quantities_add_up_where_an_item_repeats() -> None:
    events: list[Event] = [(0, 0, 5, 1), (0, 1, 11, 2), (0, 3, 12, 1.5), (0, 1, 13, 4), (0, 9, 13, 50), (0, 3, 20, 8)]
    found = rows(lists_of(events, retrieved=(3, 1, 2)))
    assert found == {0: (0, 0, 1), 1: (1, 6, 1), 2: (0, 0, 1), 3: (1, 1.5, 1)}


def test_candidates_that_do_not_fit_count_through_those_that_do() -> None:
    lists = lists_of([(0, 0, 5, 1), (0, 1, 11, 1)], retrieved=tuple(range(10)), list_size=4)
    found = rows(lists)
    assert found.pop(1) == (1, 1, 1)
    # The own item has a place, as new ones have: two of the eight are kept, and each stands for four.
    assert found.pop(0) == (0, 0, 1)
    assert list(found.values()) == [(0, 0, 4)] * 2


def test_own_and_new_items_have_as_many_places_each() -> None:
    events: list[Event] = [*((0, item, 5, 1) for item in range(5)), (0, 0, 11, 1)]
    found = rows(lists_of(events, retrieved=tuple(range(10)), list_size=5, history_length=9))
    assert found.pop(0) == (1, 1, 1)
    own, new = ([values for item, values in found.items() if (item < 5) == is_own] for is_own in (True, False))
    assert (own, new) == ([(0, 0, 2)] * 2, [(0, 0, 2.5)] * 2)
    # What one kind leaves free the other takes.
    found = rows(lists_of(events, retrieved=(8,), list_size=5, history_length=9))
    assert sorted(weight for item, (_, _, weight) in found.items() if item) == pytest.approx([1, *[4 / 3] * 3])


def test_positives_that_do_not_fit_count_through_those_that_do() -> None:
    events: list[Event] = [(0, 9, 5, 1), *((0, item, 11, item) for item in range(6))]
    found = rows(lists_of(events, retrieved=tuple(range(10)), list_size=4))
    # Three of six positives are kept, and one of four negatives.
    assert sorted(found.values())[0] == (0, 0, 4)
    assert {item: values for item, values in found.items() if values[0]} == {
        item: (1, item, 2) for item in found if item < 6
    }
    assert len(found) == 4


def test_everything_bought_leaves_no_negatives() -> None:
    assert rows(lists_of([(0, 0, 5, 1), (0, 0, 11, 2)], retrieved=(0,))) == {0: (1, 2, 1)}


def test_padding_weighs_nothing() -> None:
    lists = lists_of([(0, 0, 5, 1), (0, 0, 11, 1)])
    padding = lists.candidates[0] == N_ITEMS
    assert padding.tolist() == [False] * 2 + [True] * 6
    assert not lists.weight[0, padding].any()


def test_lists_without_a_positive_are_left_out() -> None:
    events: list[Event] = [
        *[(0, 5, 1, 1), (0, 5, 11, 1)],  # bought again
        *[(1, 5, 1, 1), (1, 6, 11, 1)],  # bought what was no candidate
        *[(2, 5, 1, 1)],  # bought nothing more
        *[(3, 5, 11, 1)],  # had no history yet
        *[(5, 0, 9, 1), (5, 0, 10, 1)],  # the basket at the snapshot is the future
    ]
    lists = lists_of(events, n_users=6)
    assert lists.users.tolist() == [0, 5]


def test_no_list_at_all_is_an_error() -> None:
    with pytest.raises(NoLists, match="a user who bought a candidate within the horizon of a snapshot, found none"):
        lists_of([(0, 5, 1, 1)])


EVENTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, N_ITEMS), st.integers(0, 30), st.integers(1, 4).map(float)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.sets(st.integers(0, N_ITEMS)), st.integers(2, 12))
def test_weighted_counts_are_the_full_counts(events: list[Event], retrieved: set[int], size: int) -> None:
    expected = {}
    for user in range(3):
        own = [item for owner, item, day, _ in sorted(events, key=lambda e: e[2]) if owner == user and day < 10][-3:]
        future: dict[int, float] = {}
        for owner, item, day, quantity in events:
            if owner == user and 10 <= day < 18:
                future[item] = future.get(item, 0) + quantity
        candidates = (set(own) | retrieved) - {N_ITEMS}
        if own and candidates & set(future):
            expected[user] = (candidates, future)
    asked = {"n_users": 3, "until": 18, "retrieved": tuple(retrieved), "list_size": size}
    if not expected:
        with pytest.raises(NoLists, match="found none"):
            lists_of(events, **asked)  # type: ignore[arg-type]
        return
    lists = lists_of(events, **asked)  # type: ignore[arg-type]
    assert lists.users.tolist() == list(expected)
    for row, (candidates, future) in enumerate(expected.values()):
        found = rows(lists, row)
        assert set(found) <= candidates
        assert len(found) == min(size, len(candidates)) or len(candidates - set(future)) == 0
        for item, (bought, quantity, _) in found.items():
            assert bought == (item in future)
            assert quantity == future.get(item, 0)
        positives = sum(weight for bought, _, weight in found.values() if bought)
        negatives = sum(weight for bought, _, weight in found.values() if not bought)
        assert positives == pytest.approx(len(candidates & set(future)))
        assert negatives == pytest.approx(len(candidates - set(future)))


def test_list_features_are_those_of_the_list_s_user_and_snapshot() -> None:
    events: list[Event] = [(0, 1, 5, 1), (0, 1, 11, 1), (1, 1, 12, 1), (1, 1, 21, 1)]
    lists = lists_of(events, n_users=2, at=(20, 10))
    found = list_features(Queries(shop_spec(), people(events, 2), N_ITEMS), lists, tf.constant([1, 0], tf.int64), 2)
    assert found["user_id"].numpy().tolist() == [0, 1]
    assert found["history_item_id"].numpy().tolist() == [[1, N_ITEMS], [1, N_ITEMS]]
    assert found["history_age"].numpy().tolist() == [[5, 0], [8, 0]]
    np.testing.assert_array_equal(found["candidates"], lists.candidates[[1, 0]])
