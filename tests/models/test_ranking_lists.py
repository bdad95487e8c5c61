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
from twotower.models.ranking import item_statistics
from twotower.models.ranking_lists import RankingLists, Retrieve, build_lists, list_features, training_dataset
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
    )


def rows(lists: RankingLists, row: int = 0) -> dict[int, tuple[float, float, float]]:
    """Candidate to (bought, quantity, weight) of one list, without its padding."""
    columns = (lists.candidates, lists.bought, lists.quantity, lists.weight)
    values = zip(*(column[row].tolist() for column in columns), strict=True)
    return {item: (bought, quantity, weight) for item, bought, quantity, weight in values if item < N_ITEMS}


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
    # Three of nine negatives are kept: each stands for three.
    assert list(found.values()) == [(0, 0, 3)] * 3


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
    with pytest.raises(ValueError, match="a user who bought a candidate within the horizon of a snapshot, found none"):
        lists_of([(0, 5, 1, 1)])


def test_statistics_are_those_of_each_snapshot() -> None:
    events: list[Event] = [(0, 1, 5, 1), (0, 1, 11, 1), (1, 1, 12, 1), (1, 1, 21, 1)]
    lists = lists_of(events, n_users=2, at=(20, 10))
    history = people(events, 2).history
    assert list(zip(lists.users, lists.times // DAY, lists.snapshots, strict=True)) == [(1, 20, 0), (0, 10, 1)]
    for number, day in enumerate((20, 10)):
        np.testing.assert_array_equal(lists.statistics[number], item_statistics(history, day * DAY, N_ITEMS))


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
        with pytest.raises(ValueError, match="found none"):
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


def test_batches_hold_every_list_once_with_its_own_features() -> None:
    spec = shop_spec(batch_size=2)
    events: list[Event] = [(u, item, day, 1) for u in range(5) for item, day in ((u, 4 + u), (u, 11 + u))]
    users = people(events, 5)
    lists = build_lists(spec, users, N_ITEMS, [10 * DAY], 99 * DAY, retrieving(8, 9), seed=1)
    queries = Queries(spec, users, N_ITEMS)
    seen = []
    for batch in training_dataset(spec, queries, lists, seed=3):
        assert batch["history_item_id"].shape[1] == spec.ranking.history_length
        for row, user in enumerate(batch["user_id"].numpy().tolist()):
            seen.append(user)
            assert batch["history_item_id"][row].numpy().tolist() == [user, N_ITEMS, N_ITEMS]
            assert batch["history_age"][row].numpy().tolist() == [6 - user, 0, 0]
            for key in ("candidates", "bought", "quantity", "weight"):
                np.testing.assert_array_equal(batch[key][row], getattr(lists, key)[lists.users == user][0])
            np.testing.assert_array_equal(batch["statistics"][row], lists.statistics[0][batch["candidates"][row]])
    assert sorted(seen) == [0, 1, 2, 3, 4]


def test_list_features_take_the_statistics_of_the_list_s_snapshot() -> None:
    events: list[Event] = [(0, 1, 5, 1), (0, 1, 11, 1), (1, 1, 12, 1), (1, 1, 21, 1)]
    spec, users = shop_spec(), people(events, 2)
    lists = lists_of(events, n_users=2, at=(20, 10))
    found = list_features(Queries(spec, users, N_ITEMS), lists, tf.constant([1, 0], tf.int64), 3)
    for place, row in enumerate((1, 0)):
        np.testing.assert_array_equal(found["statistics"][place], lists.statistics[row][lists.candidates[row]])
    assert found["user_id"].numpy().tolist() == [0, 1]
