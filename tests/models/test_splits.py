import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features.spec import LastOutSplit, TimeSplit
from twotower.features.timelines import Float32, Int64, Timelines
from twotower.models.splits import given_pairs, leave_last_out, split_protocol, time_split
from twotower.models.tables import Users

Event = tuple[int, int, int]  # user, item, time


def timelines(events: list[Event], n_users: int) -> Timelines:
    users, items, times = np.array(events, dtype=np.int64).reshape(-1, 3).T
    return Timelines.from_events(users, items.astype(np.int32), times, np.ones(len(users), np.float32), n_users)


def pairs(*found: tuple[int, int]) -> tuple[Int64, Int64]:
    users, items = np.array(found, dtype=np.int64).reshape(-1, 2).T
    return users, items


class TestTimeSplit:
    EVENTS = timelines([(0, 0, 1), (0, 1, 9), (0, 2, 10), (1, 1, 3)], n_users=2)

    def test_what_is_bought_from_the_split_on_is_relevant(self) -> None:
        before, since = self.EVENTS.before(10), self.EVENTS.since(10)
        protocol = time_split(before, before, since, 10, n_items=3, min_users=0, k=2)
        assert protocol.relevant("all").indices.tolist() == [2]

    @pytest.mark.parametrize(
        ("train", "history", "labels", "message"),
        [
            (11, 10, 10, "train: found an event at 10, expected all strictly before the split at 10"),
            (10, 11, 10, "history: found an event at 10, expected all strictly before the split at 10"),
            (10, 10, 9, "labels: found an event at 9, expected none before the split at 10"),
        ],
    )
    def test_leakage_is_refused(self, train: int, history: int, labels: int, message: str) -> None:
        events = self.EVENTS
        with pytest.raises(ValueError, match=message):
            time_split(events.before(train), events.before(history), events.since(labels), 10, 3, 0, 2)


def named(*names: bytes, history: Timelines, labels: Timelines) -> Users:
    rows = np.arange(len(names))
    return Users(np.array(names, dtype=object), rows, {}, [], history, {}, labels)


class TestSplitProtocol:
    SPLIT = LastOutSplit(kind="leave_last_out")
    # b is asked at 7, a at 3; what c buys later is known.
    TRAIN = timelines([(0, 0, 2), (1, 1, 6), (2, 2, 9)], n_users=3)
    ASKED = timelines([(0, 1, 6), (1, 0, 2)], n_users=2)
    LABELS = timelines([(0, 2, 7), (1, 1, 3), (1, 2, 3)], n_users=2)

    def test_each_user_has_a_moment_of_their_own(self) -> None:
        none = self.TRAIN.latest(0)
        train = named(b"a", b"b", b"c", history=self.TRAIN, labels=none)
        asked = named(b"b", b"a", history=self.ASKED, labels=self.LABELS)
        protocol = split_protocol(self.SPLIT, train, asked, n_items=3, min_users=0, k=2)
        assert protocol.relevant("new").indices.tolist() == [2, 1, 2]

    def test_training_on_what_is_asked_is_leakage(self) -> None:
        train = named(b"a", b"c", b"b", history=self.TRAIN, labels=self.TRAIN.latest(0))
        asked = named(b"b", b"a", history=self.ASKED, labels=self.LABELS)
        message = "train: user 'b' has an event at 9, expected all of them strictly before the first label at 7"
        with pytest.raises(ValueError, match=message):
            split_protocol(self.SPLIT, train, asked, n_items=3, min_users=0, k=2)

    def test_a_split_in_time_is_held_to_its_moment(self) -> None:
        train = named(b"a", b"b", b"c", history=self.TRAIN, labels=self.TRAIN.latest(0))
        asked = named(b"b", b"a", history=self.ASKED, labels=self.LABELS)
        with pytest.raises(ValueError, match="train: found an event at 9, expected all strictly before the split at 9"):
            split_protocol(TimeSplit.model_validate({"test_from": "1970-01-01T00:00:09Z"}), train, asked, 3, 0, 2)


class TestLeaveLastOut:
    def test_by_hand(self) -> None:
        events = [(0, 4, 1), (0, 2, 5), (0, 4, 7), (1, 3, 2), (2, 0, 3), (2, 1, 3), (4, 0, 1), (4, 1, 6), (4, 2, 6)]
        history, labels = leave_last_out(timelines(events, n_users=5))
        # User 0's last is the second purchase of item 4; users 1 and 2 have one moment only, user 3 nothing;
        # of user 4's last moment the last event is the label, and the other one is in neither part.
        assert [history.select([u]).items.tolist() for u in range(5)] == [[4, 2], [3], [0, 1], [], [0]]
        assert [labels.select([u]).items.tolist() for u in range(5)] == [[4], [], [], [], [2]]

    @settings(deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 9)), max_size=40))
    def test_no_label_at_or_before_its_history(self, events: list[Event]) -> None:
        whole = timelines(events, n_users=5)
        history, labels = leave_last_out(whole)
        for user in range(5):
            before, after, every = (part.select([user]) for part in (history, labels, whole))
            assert len(after.items) == (len(set(every.times.tolist())) > 1)
            if len(after.items):
                assert after.items[0] == every.items[-1]
                assert before.times.tolist() == [time for time in every.times.tolist() if time < after.times[0]]
            else:
                assert before.items.tolist() == every.items.tolist()

    def test_goes_into_the_protocol(self) -> None:
        out = leave_last_out(timelines([(0, 0, 1), (0, 1, 2), (1, 2, 1), (1, 0, 5)], n_users=2))
        found = out.protocol(n_items=3, k=1).evaluate_vectors(np.eye(2, dtype=np.float32), VECTORS, "all")
        # Item 1 is best for user 0 and their label; item 2 for user 1, whose label is 0.
        assert (found.users, found.recall) == (2, 1 / 2)


VECTORS: Float32 = np.array([[0, 0], [1, 0], [0, 1]], dtype=np.float32)


class TestGivenPairs:
    def test_training_items_are_masked_and_all_others_ranked(self) -> None:
        protocol = given_pairs(*pairs((0, 1), (1, 0)), *pairs((0, 2), (1, 2), (2, 1)), n_users=4, n_items=3, k=1)
        assert protocol.n_candidates == 3
        # User 2 is in the test only, and evaluated; user 3 is in no file.
        assert protocol.evaluated_users("new").tolist() == [0, 1, 2]
        queries = np.array([[9, 1], [0, 1], [1, 0], [0, 0]], dtype=np.float32)
        found = protocol.evaluate_vectors(queries, VECTORS, "new")
        # User 0's best, item 1, is a training item: 2 is next, and relevant, as for all.
        assert found.per_user.recall.tolist() == [1, 1, 1]

    def test_a_pair_in_both_files(self) -> None:
        with pytest.raises(ValueError, match="2 of 3 pairs are in train too, the first is user 1 with item 0"):
            given_pairs(*pairs((1, 0), (0, 1), (1, 2)), *pairs((0, 0), (1, 0), (1, 2)), n_users=2, n_items=3)

    @pytest.mark.parametrize(
        ("train", "test", "message"),
        [
            (pairs((0, 3)), pairs((0, 1)), "train: found item rows 3 to 3, expected 0 to 2"),
            (pairs((0, 0)), pairs((0, 1), (2, 1)), "test: found user rows 0 to 2, expected 0 to 1"),
            (pairs((0, 0)), pairs(), "test: found no pair"),
        ],
    )
    def test_rows_out_of_range(self, train: tuple[Int64, Int64], test: tuple[Int64, Int64], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            given_pairs(*train, *test, n_users=2, n_items=3)
