import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features.timelines import Timelines

Event = tuple[int, int, int, float]  # user, item, time, quantity
N_USERS = 4

EVENTS = st.lists(
    st.tuples(st.integers(0, N_USERS - 1), st.integers(0, 5), st.integers(0, 8), st.integers(1, 3).map(float)),
    max_size=30,
)


def timelines(events: list[Event], n_users: int = N_USERS) -> Timelines:
    return Timelines.from_events(
        np.array([event[0] for event in events], dtype=np.int64),
        np.array([event[1] for event in events], dtype=np.int32),
        np.array([event[2] for event in events], dtype=np.int64),
        np.array([event[3] for event in events], dtype=np.float32),
        n_users,
    )


def as_events(found: Timelines) -> list[Event]:
    columns = (found.users, found.items, found.times, found.quantities)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def by_user_and_time(events: list[Event]) -> list[Event]:
    """Sorted as timelines are: Python's sort keeps the order of ties."""
    return sorted(events, key=lambda event: (event[0], event[2]))


@pytest.fixture
def three() -> Timelines:
    """User 0: items 7, 8 at time 1, then 7 at 3. User 1: nothing. User 2: item 9 at time 2."""
    return timelines([(2, 9, 2, 1.0), (0, 7, 3, 2.0), (0, 7, 1, 1.0), (0, 8, 1, 5.0)], n_users=3)


class TestByHand:
    def test_from_events(self, three: Timelines) -> None:
        assert three.offsets.tolist() == [0, 3, 3, 4]
        assert three.items.tolist() == [7, 8, 7, 9]
        assert three.times.tolist() == [1, 1, 3, 2]
        assert three.quantities.tolist() == [1, 5, 2, 1]
        assert three.lengths.tolist() == [3, 0, 1]
        assert three.users.tolist() == [0, 0, 0, 2]

    def test_cuts(self, three: Timelines) -> None:
        # Events 0 and 1 share a basket: nothing was known before either. Both were known before event 2.
        assert three.cuts().tolist() == [0, 0, 2, 3]

    def test_cuts_where_one_user_ends_when_the_next_begins(self) -> None:
        assert timelines([(0, 1, 5, 1.0), (1, 1, 5, 1.0)]).cuts().tolist() == [0, 1]

    def test_first_purchases(self, three: Timelines) -> None:
        assert three.first_purchases().tolist() == [True, True, False, True]

    def test_first_purchases_of_an_item_twice_in_the_first_basket(self) -> None:
        twice = timelines([(0, 1, 5, 1.0), (0, 1, 5, 1.0), (0, 1, 6, 1.0)])
        assert twice.first_purchases().tolist() == [True, True, False]

    def test_before_is_strict_and_since_is_the_rest(self, three: Timelines) -> None:
        assert three.before(3).items.tolist() == [7, 8, 9]
        assert three.since(3).items.tolist() == [7]
        assert three.before(3).offsets.tolist() == [0, 2, 2, 3]

    def test_before_a_moment_for_each_user(self, three: Timelines) -> None:
        moments = np.array([1, 9, 3], dtype=np.int64)
        assert three.before(moments).items.tolist() == [9]
        assert three.since(moments).items.tolist() == [7, 8, 7]

    def test_latest(self, three: Timelines) -> None:
        assert three.latest(2).items.tolist() == [8, 7, 9]
        assert three.latest(0).offsets.tolist() == [0, 0, 0, 0]

    def test_select_may_reorder_and_repeat(self, three: Timelines) -> None:
        chosen = three.select([2, 0, 1, 2])
        assert chosen.offsets.tolist() == [0, 1, 4, 4, 5]
        assert chosen.items.tolist() == [9, 7, 8, 7, 9]
        assert chosen.times.tolist() == [2, 1, 1, 3, 2]
        assert chosen.quantities.tolist() == [1, 1, 5, 2, 1]

    def test_select_nobody(self, three: Timelines) -> None:
        assert three.select([]).n_users == 0

    def test_padded(self, three: Timelines) -> None:
        items, times = three.padded(2, fill=99)
        assert items.tolist() == [[8, 7], [99, 99], [9, 99]]
        assert times.tolist() == [[1, 3], [0, 0], [2, 0]]

    def test_out_of_order_is_refused(self, three: Timelines) -> None:
        with pytest.raises(ValueError, match="in time order"):
            Timelines(three.offsets, three.items, three.times[::-1], three.quantities)

    def test_arrays_of_unequal_length_are_refused(self, three: Timelines) -> None:
        with pytest.raises(ValueError, match="offsets end at 4, found 3 items, 4 times, 4 quantities"):
            Timelines(three.offsets, three.items[:3], three.times, three.quantities)


class TestProperties:
    @settings(deadline=None)
    @given(EVENTS)
    def test_from_events_round_trip(self, events: list[Event]) -> None:
        found = timelines(events)
        assert as_events(found) == by_user_and_time(events)
        assert found.n_users == N_USERS
        assert as_events(timelines(as_events(found))) == as_events(found)

    @settings(deadline=None)
    @given(EVENTS, EVENTS, st.integers(0, 8))
    def test_the_future_never_changes_a_history(self, past: list[Event], future: list[Event], moment: int) -> None:
        known = [event for event in past if event[2] < moment]
        later = [(user, item, time + moment, quantity) for user, item, time, quantity in future]
        without, with_future = timelines(known), timelines(later + known)
        assert as_events(with_future.before(moment)) == as_events(without)
        # Nor do the cuts: each past event has the same history of its own.
        changed = with_future.cuts() - with_future.offsets[with_future.users]
        expected = without.cuts() - without.offsets[without.users]
        assert changed[with_future.times < moment].tolist() == expected.tolist()

    @settings(deadline=None)
    @given(EVENTS)
    def test_cuts_agree_with_a_loop(self, events: list[Event]) -> None:
        found = timelines(events)
        ordered = as_events(found)
        for row, (cut, (user, _, time, _)) in enumerate(zip(found.cuts().tolist(), ordered, strict=True)):
            history = ordered[found.offsets[user] : cut]
            assert history == [event for event in ordered if event[0] == user and event[2] < time], row

    @settings(deadline=None)
    @given(EVENTS)
    def test_first_purchases_agree_with_a_loop(self, events: list[Event]) -> None:
        found = timelines(events)
        ordered = as_events(found)
        expected = [
            not any((u, i) == (user, item) and t < time for u, i, t, _ in ordered) for user, item, time, _ in ordered
        ]
        assert found.first_purchases().tolist() == expected

    @settings(deadline=None)
    @given(EVENTS, st.lists(st.integers(0, 9), min_size=N_USERS, max_size=N_USERS))
    def test_before_and_since_share_the_events_out(self, events: list[Event], moments: list[int]) -> None:
        found, moment = timelines(events), np.array(moments, dtype=np.int64)
        ordered = as_events(found)
        assert as_events(found.before(moment)) == [event for event in ordered if event[2] < moments[event[0]]]
        assert as_events(found.since(moment)) == [event for event in ordered if event[2] >= moments[event[0]]]

    @settings(deadline=None)
    @given(EVENTS, st.lists(st.integers(0, N_USERS - 1), max_size=6), st.integers(0, 4))
    def test_select_latest_and_padded_agree_with_loops(self, events: list[Event], users: list[int], n: int) -> None:
        ordered = by_user_and_time(events)
        own = [[event for event in ordered if event[0] == user] for user in users]
        kept = [line[max(len(line) - n, 0) :] for line in own]
        chosen = timelines(events).select(users)
        assert chosen.n_users == len(users)
        assert chosen.items.tolist() == [event[1] for line in own for event in line]
        assert chosen.latest(n).times.tolist() == [event[2] for line in kept for event in line]
        items, times = chosen.padded(n, fill=77)
        assert items.tolist() == [[event[1] for event in line] + [77] * (n - len(line)) for line in kept]
        assert times.tolist() == [[event[2] for event in line] + [0] * (n - len(line)) for line in kept]
