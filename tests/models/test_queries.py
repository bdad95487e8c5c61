"""Query features at a moment: what was known strictly before it, and nothing else."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features.encoding import Encoding
from twotower.features.spec import Spec
from twotower.features.timelines import Int64, Timelines
from twotower.models.queries import DAY, Queries
from twotower.models.tables import Users

SPEC = Spec.model_validate(
    {
        "name": "shop",
        "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
        "context": {"store": {"kind": "category"}, "hour": {"kind": "time", "part": "hour"}},
        "split": {"test_from": "2017-12-01"},
    }
)
N_ITEMS, STORES, PAD = 5, 3, 5
ENCODINGS = [
    Encoding("user_town", "index", 4),
    Encoding("context_store", "index", STORES + 1),
    Encoding("context_hour", "index", 25),
]
Event = tuple[int, int, int]  # user, item, time


def people(events: list[Event], n_users: int, stores: list[int] | None = None) -> Users:
    users, items, times = np.array(sorted(events, key=lambda e: (e[0], e[2])), dtype=np.int64).reshape(-1, 3).T
    history = Timelines.from_events(users, items.astype(np.int32), times, np.ones(len(users), np.float32), n_users)
    return Users(
        ids=np.array([b"%d" % n for n in range(n_users)], dtype=object),
        rows=np.arange(n_users)[::-1].copy(),
        features={"user_town": np.arange(n_users) % 4},
        encodings=ENCODINGS,
        history=history,
        context={"context_store": np.array(stores or [0] * len(events), dtype=np.int64)},
        labels=history.latest(0),
    )


def asked(
    users: Users, moments: list[tuple[int, int]], length: int, events: list[int] | None = None
) -> dict[str, list[Any]]:
    queries = Queries(SPEC, users, N_ITEMS)
    rows, times = np.array(moments, dtype=np.int64).reshape(-1, 2).T
    cuts = queries.cuts(rows, times)
    at = None if events is None else tf.constant(events, tf.int64)
    found = queries.features(tf.constant(rows), tf.constant(cuts), tf.constant(times), length, at)
    return {name: value.numpy().tolist() for name, value in found.items()}


@pytest.fixture
def shop() -> Users:
    """User 0 has four events, two of them in one basket; 1 has none; 2 has one; 3 has none."""
    day = int(DAY)
    return people([(0, 1, 0), (0, 2, day), (0, 3, day), (0, 4, 4 * day), (2, 0, 2 * day)], 4, [2, 1, 0, 2, 1])


def test_the_latest_events_before_the_moment_with_their_ages(shop: Users) -> None:
    found = asked(shop, [(0, int(4 * DAY)), (0, int(4.5 * DAY))], 3)
    # Most recent first; ages of events at days 0, 1 and 4 seen from days 4 and 4.5.
    assert found["history_item_id"] == [[3, 2, 1], [4, 3, 2]]
    assert found["history_age"] == [[3.0, 3.0, 4.0], [0.5, 3.5, 3.5]]


def test_first_and_last_users_and_users_without_events_see_nobody_elses(shop: Users) -> None:
    late = int(9 * DAY)
    found = asked(shop, [(0, late), (1, late), (2, late), (3, late), (0, 0), (2, 0)], 6)
    assert found["history_item_id"] == [
        [4, 3, 2, 1, PAD, PAD],
        [PAD] * 6,
        [0, *[PAD] * 5],
        [PAD] * 6,
        [PAD] * 6,
        [PAD] * 6,
    ]
    assert found["history_age"][1] == found["history_age"][4] == [0.0] * 6
    assert found["history_age"][2] == [7.0, 0, 0, 0, 0, 0]


def test_ids_features_and_context(shop: Users) -> None:
    found = asked(shop, [(2, 5 * 3_600), (0, int(DAY) + 23 * 3_600)], 2)
    assert found["user_id"] == [1, 3]  # rows of the user vocabulary, here in reverse
    assert found["user_town"] == [2, 0]
    assert found["context_hour"] == [5, 23]
    assert found["context_store"] == [STORES, STORES]  # not known of a request's own moment


def test_context_of_an_event_is_its_own(shop: Users) -> None:
    found = asked(shop, [(0, 0), (2, int(2 * DAY)), (0, int(DAY))], 2, events=[0, 4, 2])
    assert found["context_store"] == [2, 1, 0]


def test_nobody_has_events() -> None:
    found = asked(people([], 2), [(0, 10), (1, 10)], 2)
    assert found["history_item_id"] == [[PAD, PAD]] * 2
    assert asked(people([], 2), [], 2)["history_item_id"] == []


N_USERS = 4
EVENTS = st.lists(st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS), st.integers(0, 20)), max_size=25)
MOMENTS = st.lists(st.tuples(st.integers(0, N_USERS - 1), st.integers(-1, 22)), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(EVENTS, MOMENTS, st.integers(1, 6))
def test_histories_are_those_of_a_plain_search(
    events: list[Event], moments: list[tuple[int, int]], length: int
) -> None:
    found = asked(people(events, N_USERS), moments, length)
    ordered = sorted(events, key=lambda e: (e[0], e[2]))
    for row, (user, moment) in enumerate(moments):
        past = [(item, time) for owner, item, time in ordered if owner == user and time < moment][::-1][:length]
        padding = length - len(past)
        assert found["history_item_id"][row] == [item for item, _ in past] + [PAD] * padding
        ages = [(moment - time) / DAY for _, time in past] + [0.0] * padding
        np.testing.assert_allclose(found["history_age"][row], ages, rtol=1e-6)


@settings(max_examples=60, deadline=None)
@given(EVENTS, EVENTS, st.integers(0, N_USERS - 1), st.integers(0, 21))
def test_the_future_and_the_other_users_change_nothing(
    events: list[Event], changes: list[Event], user: int, moment: int
) -> None:
    past = [event for event in events if event[0] == user and event[2] < moment]
    replaced = past + [event for event in changes if not (event[0] == user and event[2] < moment)]
    before, after = (asked(people(each, N_USERS), [(user, moment)], 8) for each in (events, replaced))
    assert before == after


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_cuts_of_events_are_the_cuts_of_the_timelines(events: list[Event]) -> None:
    users = people(events, N_USERS)
    history = users.history
    cuts: Int64 = Queries(SPEC, users, N_ITEMS).cuts(history.users, history.times)
    assert cuts.tolist() == history.cuts().tolist()
    naive = [
        sum(1 for owner, _, time in events if owner < user or (owner == user and time < moment))
        for user, moment in zip(history.users, history.times, strict=True)
    ]
    assert cuts.tolist() == naive
