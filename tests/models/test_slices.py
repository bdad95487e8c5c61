from dataclasses import replace

import numpy as np
import pytest

from twotower.features.timelines import Int32, Timelines
from twotower.models.protocol import EvaluationProtocol
from twotower.models.slices import (
    Slice,
    SliceValues,
    history_slices,
    label_slices,
    losses,
    new_item_slice,
    slice_values,
)

SPLIT = 100 * 86_400
Event = tuple[int, int, int]  # user, item, days before the split


def timelines(events: list[Event], n_users: int) -> Timelines:
    users, items, days = np.array(events, dtype=np.int64).reshape(-1, 3).T
    times = SPLIT - days * 86_400
    return Timelines.from_events(users, items.astype(np.int32), times, np.ones(len(users), np.float32), n_users)


def rows(*lists: list[int]) -> Int32:
    return np.array(lists, dtype=np.int32)


@pytest.fixture
def shop() -> EvaluationProtocol:
    """User 0 knows items 0 and 1 and buys 0 and 2; user 1 knows 1 and buys 1; user 2 is new and buys 2."""
    events = [(0, 0, 50), (0, 1, 3), (0, 0, -1), (0, 2, -1), (1, 1, 40), (1, 1, -1), (2, 2, -1), (3, 0, 9)]
    every = timelines(events, n_users=4)
    before = every.before(SPLIT)
    return EvaluationProtocol(before, before, every.since(SPLIT), n_items=4, min_users=0, k=2)


def of(found: list[SliceValues]) -> list[tuple[list[int], list[float]]]:
    return [(one.users.tolist(), one.values.tolist()) for one in found]


class TestValues:
    LISTS = rows([2, 3, 0], [1, 2, 3], [1, 2, 0], [0, 1, 2])

    def test_slices_of_users(self, shop: EvaluationProtocol) -> None:
        slices = [
            Slice("town", "Ulm", users=np.array([True, False, True, True])),
            Slice("town", "Bonn", users=np.array([False, True, False, False])),
            Slice("town", "Kiel", users=np.array([False, False, False, True])),
        ]
        found = list(slice_values(shop, self.LISTS, "all", 2, "recall", slices))
        # User 2 has no history, and counts here; user 3 bought nothing in the test.
        assert of(found) == [([0, 2], [0.5, 1]), ([1], [1]), ([], [])]
        assert [one.slice for one in found] == slices

    def test_slices_of_items_keep_lists_and_candidates(self, shop: EvaluationProtocol) -> None:
        slices = [Slice("kind", "a", items=np.arange(4) == item) for item in (0, 2, 3)]
        found = list(slice_values(shop, self.LISTS, "all", 2, "mrr", slices))
        # Item 0, which user 0 alone buys, stands at their place 3; item 2 at place 1 of user 0 and 2 of user 2.
        assert of(found) == [([0], [0]), ([0, 2], [1, 1 / 2]), ([], [])]

    def test_new_products_only(self, shop: EvaluationProtocol) -> None:
        found = list(slice_values(shop, self.LISTS, "new", 1, "recall", [Slice("a", "b", users=np.ones(4, bool))]))
        # User 0: 0 is known and no candidate, 2 is new and first. User 1's label is known. User 2's list begins with 1.
        assert of(found) == [([0, 2], [1, 0])]

    def test_nobody(self, shop: EvaluationProtocol) -> None:
        with pytest.raises(ValueError, match="none of 4 users has a relevant item"):
            list(slice_values(replace(shop, labels=shop.labels.before(0)), self.LISTS, "all", 2, "recall", []))

    def test_a_slice_is_of_users_or_of_items(self) -> None:
        with pytest.raises(ValueError, match="slice town Ulm: expected either users or items"):
            Slice("town", "Ulm")


class TestGroups:
    def test_new_light_middle_and_heavy(self) -> None:
        lengths = [0, 4, 5, 6, 7, 8, 9, 100]
        events = [(user, 0, 1) for user, n in enumerate(lengths) for _ in range(n)]
        slices = history_slices(timelines(events, n_users=8))
        assert [one.name for one in slices] == [
            "new: fewer than 5 events",
            "light: 5 to 6 events",
            "middle: 7 to 8 events",
            "heavy: more than 8 events",
        ]
        members = np.array([one.users for one in slices])
        assert [np.flatnonzero(one).tolist() for one in members] == [[0, 1], [2, 3], [4, 5], [6, 7]]

    def test_everybody_is_new(self) -> None:
        assert [one.name for one in history_slices(timelines([(0, 0, 1)], n_users=2))] == ["new: fewer than 5 events"]

    def test_new_items(self) -> None:
        events = [(0, 0, 50), (1, 0, 2), (0, 1, 10), (0, 2, 11), (0, 9, 1)]
        found = new_item_slice(timelines(events, n_users=2), n_items=4, end=SPLIT, days=10)
        # Item 0 was sold again, 1 first within the ten days, 2 before them, 3 never; 9 is out of vocabulary.
        assert found.items is not None
        assert found.items.tolist() == [False, True, False, True]

    def test_labels(self) -> None:
        slices = label_slices("town", np.array([1, 2, 1, 3, -1]), ["Bonn", "Kiel", "Ulm"], "users")
        assert [(one.group, one.name) for one in slices] == [("town", "Kiel"), ("town", "Ulm"), ("town", "unknown")]
        assert slices[2].users is not None
        assert slices[2].users.tolist() == [False, False, False, True, True]


class TestLosses:
    ALL = Slice("town", "Ulm", users=np.ones(200, bool))

    def values(self, mean: float, n: int = 200, noise: float = 0.0) -> list[SliceValues]:
        drawn = mean + noise * np.random.default_rng(round(mean * 1000)).choice([-1, 1], n)
        return [SliceValues(self.ALL, np.arange(n), drawn)]

    def test_a_loss_beyond_the_tolerance(self) -> None:
        (loss,) = losses(self.values(0.17), self.values(0.2), tolerance=0.1, min_users=50, resamples=200, seed=0)
        assert (loss.slice, loss.users) == (self.ALL, 200)
        assert (loss.ours, loss.theirs) == pytest.approx((0.17, 0.2))

    def test_a_loss_within_the_tolerance(self) -> None:
        assert not list(losses(self.values(0.185), self.values(0.2), 0.1, 50, 200, seed=0))

    def test_too_few_users(self) -> None:
        assert not list(losses(self.values(0.1, 49), self.values(0.2, 49), 0.1, 50, 200, seed=0))
        assert list(losses(self.values(0.1, 50), self.values(0.2, 50), 0.1, 50, 200, seed=0))

    def test_noise_is_no_loss(self) -> None:
        # The means differ by more than the tolerance, but so they would by chance.
        ours, last = self.values(0.15, 60, noise=0.5), self.values(0.2, 60, noise=0.5)
        assert ours[0].values.mean() < 0.9 * last[0].values.mean()
        assert not list(losses(ours, last, 0.1, 50, 500, seed=0))

    def test_the_difference_is_paired(self) -> None:
        # Users differ far more from each other than the models do, which the intervals of either alone would hide.
        last = np.random.default_rng(0).random(200)
        ours = 0.8 * last
        found = losses(
            [SliceValues(self.ALL, np.arange(200), ours)],
            [SliceValues(self.ALL, np.arange(200), last)],
            0.1,
            50,
            500,
            0,
        )
        assert len(list(found)) == 1

    def test_other_users(self) -> None:
        with pytest.raises(ValueError, match="slice town Ulm: found two models with other users"):
            list(losses(self.values(0.2, 60), self.values(0.2, 70), 0.1, 50, 10, seed=0))
