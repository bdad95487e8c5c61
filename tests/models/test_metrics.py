import dataclasses
import random
from math import log2
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

from twotower.features.timelines import Int32, Timelines
from twotower.models.metrics import ItemSets, Metric, ranking_metrics, ranking_metrics_at

N_ITEMS = 12


def item_sets(*sets: set[int]) -> ItemSets:
    indptr = np.cumsum([0, *map(len, sets)]).astype(np.int64)
    return ItemSets(indptr, np.array([item for items in sets for item in sorted(items)], dtype=np.int32))


def rows(*lists: list[int]) -> Int32:
    return np.array(lists, dtype=np.int32)


@st.composite
def rankings(draw: st.DrawFn) -> tuple[Int32, list[set[int]]]:
    """Lists of 5 places, some of them short, and relevant items, with at least one user who has some."""
    n_users = draw(st.integers(1, 6))
    lists = []
    for _ in range(n_users):
        items = draw(st.permutations(range(N_ITEMS)))[: draw(st.integers(0, 5))]
        lists.append(items + [-1] * (5 - len(items)))
    sets = [draw(st.sets(st.integers(0, N_ITEMS - 1))) for _ in range(n_users)]
    sets[draw(st.integers(0, n_users - 1))].add(draw(st.integers(0, N_ITEMS - 1)))
    return rows(*lists), sets


class TestByHand:
    def test_three_users_with_relevant_items_and_one_without(self) -> None:
        lists = rows([5, 2, 7, 9], [4, -1, -1, -1], [8, 9, 10, 11], [1, 2, 3, 6])
        found = ranking_metrics(lists, item_sets({2, 7, 9, 11}, {4}, set(), {6}), n_candidates=N_ITEMS, k=3)

        # Cut at 3, so the 9 of the first and the 6 of the last list do not count. The third user has no
        # relevant item: the means are over three users.
        assert found.users == 3
        # First user: hits 2 and 7, 2 of 4. Second: 1 of 1. Fourth: 0 of 1.
        assert found.recall == pytest.approx((2 / 4 + 1 + 0) / 3)
        # First: hits at places 2 and 3, the best 3 places possible (min(3, 4)). Second: a hit at 1, 1 possible.
        first = (1 / log2(3) + 1 / log2(4)) / (1 / log2(2) + 1 / log2(3) + 1 / log2(4))
        assert first == pytest.approx(1.13093 / 2.13093, abs=1e-5)
        assert found.ndcg == pytest.approx((first + 1 + 0) / 3)
        # First: precision 1/2 at place 2 and 2/3 at place 3, over min(3, 4) = 3 -> 7/18. Second: 1.
        assert found.map == pytest.approx((7 / 18 + 1 + 0) / 3)
        # Two hits, one and none in three places.
        assert found.precision == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)
        assert found.hit_rate == pytest.approx(2 / 3)
        # First: first hit at place 2. Second: at place 1.
        assert found.mrr == pytest.approx((1 / 2 + 1 + 0) / 3)
        # Recommended to the three: 5, 2, 7; 4; 1, 2, 3. Six distinct ones of 12.
        assert found.coverage == 6 / 12

    def test_values_of_each_user_are_in_row_order(self) -> None:
        found = ranking_metrics(rows([0, 1], [2, 3], [4, 5]), item_sets({1}, set(), {4, 5}), n_candidates=6, k=2)
        assert found.per_user.recall.tolist() == [1, 1]
        assert found.per_user.ndcg == pytest.approx([1 / log2(3), 1])
        assert found.per_user.average_precision.tolist() == [1 / 2, 1]
        assert found.per_user.reciprocal_rank.tolist() == [1 / 2, 1]

    def test_metrics_by_name(self) -> None:
        found = ranking_metrics(rows([0, 1], [2, 3]), item_sets({1}, {2, 4}), n_candidates=6, k=2)
        for name in get_args(Metric):
            assert found.per_user.of(name).mean() == pytest.approx(found.of(name))
        assert found.per_user.of("map").tolist() == [1 / 2, 1 / 2]
        assert found.per_user.of("mrr").tolist() == [1 / 2, 1]

    def test_more_relevant_items_than_places(self) -> None:
        # Two hits in two places, four relevant: half of them found, in the best possible order.
        found = ranking_metrics(rows([3, 1]), item_sets({0, 1, 2, 3}), n_candidates=4, k=2)
        assert (found.recall, found.ndcg, found.map, found.mrr, found.coverage) == (0.5, 1, 1, 1, 0.5)


class TestProperties:
    @settings(deadline=None)
    @given(rankings(), st.integers(1, 5))
    def test_between_0_and_1(self, ranking: tuple[Int32, list[set[int]]], k: int) -> None:
        lists, sets = ranking
        found = ranking_metrics(lists, item_sets(*sets), N_ITEMS, k)
        for value in (*(found.of(name) for name in get_args(Metric)), found.coverage):
            assert 0 <= value <= 1
        assert found.precision <= found.hit_rate
        assert found.recall <= found.hit_rate

    @settings(deadline=None)
    @given(rankings(), st.randoms(use_true_random=False))
    def test_order_of_users_changes_nothing(
        self, ranking: tuple[Int32, list[set[int]]], shuffling: random.Random
    ) -> None:
        lists, sets = ranking
        order = list(range(len(sets)))
        shuffling.shuffle(order)
        found = dataclasses.astuple(ranking_metrics(lists, item_sets(*sets), N_ITEMS, 4))[:-1]
        shuffled = ranking_metrics(lists[order], item_sets(*(sets[row] for row in order)), N_ITEMS, 4)
        assert dataclasses.astuple(shuffled)[:-1] == pytest.approx(found)

    @settings(deadline=None)
    @given(rankings(), st.integers(1, 5))
    def test_relevant_items_first_give_exactly_1(self, ranking: tuple[Int32, list[set[int]]], k: int) -> None:
        _, sets = ranking
        ideal = [sorted(items) + sorted(set(range(N_ITEMS)) - items) for items in sets]
        found = ranking_metrics(rows(*ideal), item_sets(*sets), N_ITEMS, k)
        assert (found.ndcg, found.map, found.mrr) == (1, 1, 1)
        assert found.recall == pytest.approx(np.mean([min(k, len(items)) / len(items) for items in sets if items]))

    @settings(deadline=None)
    @given(rankings())
    def test_agrees_with_a_loop_over_users(self, ranking: tuple[Int32, list[set[int]]]) -> None:
        lists, sets = ranking
        k, ndcg, average_precision = 4, [], []
        for places, items in zip(lists[:, :k].tolist(), sets, strict=True):
            if not items:
                continue
            hits = [item in items for item in places]
            best = min(k, len(items))
            ndcg.append(
                sum(hit / log2(place + 2) for place, hit in enumerate(hits))
                / sum(1 / log2(place + 2) for place in range(best))
            )
            average_precision.append(
                sum(sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit) / best
            )
        found = ranking_metrics(lists, item_sets(*sets), N_ITEMS, k).per_user
        assert found.ndcg == pytest.approx(ndcg)
        assert found.average_precision == pytest.approx(average_precision)

    @settings(deadline=None)
    @given(rankings(), st.integers(1, 5))
    def test_a_longer_list_finds_no_less(self, ranking: tuple[Int32, list[set[int]]], k: int) -> None:
        lists, sets = ranking
        long, short = (ranking_metrics(lists, item_sets(*sets), N_ITEMS, places).per_user for places in (5, k))
        assert (long.recall >= short.recall).all()
        assert (long.reciprocal_rank >= short.reciprocal_rank).all()

    @settings(deadline=None)
    @given(rankings(), st.integers(1, 5))
    def test_agrees_with_scikit_learn(self, ranking: tuple[Int32, list[set[int]]], k: int) -> None:
        lists, sets = ranking
        # scikit-learn ranks by scores, and gives the items that are not listed their average place: let them all be
        # last, and none of them relevant, by a column for each that the list does not hold.
        asked = [row for row, items in enumerate(sets) if items]
        truth = np.array([[item in sets[row] for item in range(N_ITEMS)] for row in asked], dtype=float)
        scores = np.array(
            [
                [10.0 - list(lists[row]).index(i) if i in lists[row] else -float(i) for i in range(N_ITEMS)]
                for row in asked
            ]
        )
        full = np.argsort(-scores, axis=1).astype(np.int32)
        found = ranking_metrics(full, item_sets(*(sets[row] for row in asked)), N_ITEMS, k)
        assert found.ndcg == pytest.approx(ndcg_score(truth, scores, k=k))
        # Its average precision is over the whole list, and so is ours at that cut-off.
        whole = ranking_metrics(full, item_sets(*(sets[row] for row in asked)), N_ITEMS, N_ITEMS)
        assert whole.map == pytest.approx(label_ranking_average_precision_score(truth, scores))

    @settings(deadline=None)
    @given(rankings(), st.permutations(range(1, 6)))
    def test_several_cut_offs_are_each_alone(self, ranking: tuple[Int32, list[set[int]]], cutoffs: list[int]) -> None:
        lists, sets = ranking
        found = ranking_metrics_at(lists, item_sets(*sets), N_ITEMS, cutoffs)
        assert found == [ranking_metrics(lists, item_sets(*sets), N_ITEMS, k) for k in cutoffs]


class TestRefusals:
    def test_a_metric_that_was_never_updated(self) -> None:
        found = ranking_metrics(rows([0]), item_sets({0}), n_candidates=2, k=1)
        with pytest.raises(ValueError, match="ndcg@1: found nan over 1 users, expected a measured number"):
            dataclasses.replace(found, ndcg=float("nan"))
        with pytest.raises(ValueError, match="over 0 users"):
            dataclasses.replace(found, users=0)

    def test_no_user_with_a_relevant_item(self) -> None:
        with pytest.raises(ValueError, match="none of 2 users has a relevant item"):
            ranking_metrics(rows([0, 1], [1, 2]), item_sets(set(), set()), n_candidates=3, k=2)

    def test_no_user_at_all(self) -> None:
        with pytest.raises(ValueError, match="none of 0 users has a relevant item"):
            ranking_metrics(np.empty((0, 2), dtype=np.int32), item_sets(), n_candidates=3, k=2)

    def test_item_twice_in_a_list(self) -> None:
        with pytest.raises(ValueError, match="found item 7 twice in row 1"):
            ranking_metrics(rows([1, 2, 3], [7, 0, 7]), item_sets({1}, {2}), n_candidates=9, k=2)

    def test_item_twice_in_a_relevant_set(self) -> None:
        relevant = ItemSets(np.array([0, 2], dtype=np.int64), np.array([4, 4], dtype=np.int32))
        with pytest.raises(ValueError, match="relevant: found an item twice"):
            ranking_metrics(rows([1, 2]), relevant, n_candidates=9, k=2)

    @pytest.mark.parametrize(
        ("lists", "k", "message"),
        [
            (rows([1, 2]), 3, r"shape \[1, 2\] with k = 3"),
            (rows([1, 2]), 0, "with k = 0"),
            (np.array([1, 2], dtype=np.int32), 1, r"shape \[2\]"),
            (rows([1, -1, 2]), 2, "after the padding"),
            (rows([1, -2]), 2, "found item row -2"),
            (rows([1, 2], [1, 2]), 2, "found 2 rows, expected one for each of 1 users"),
            (rows([1, 2]), 2, "found 2 distinct items, expected at most 1 candidates"),
        ],
    )
    def test_lists_of_another_shape(self, lists: Int32, k: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ranking_metrics(lists, item_sets({1}), n_candidates=1, k=k)


class TestItemSets:
    def test_select_takes_users_in_the_order_given(self) -> None:
        found = item_sets({1, 5}, set(), {7}).select(np.array([2, 0, 1, 2]))
        assert found.lengths.tolist() == [1, 2, 0, 1]
        assert found.indices.tolist() == [7, 1, 5, 7]

    def test_bought_keeps_each_known_item_once(self) -> None:
        timelines = Timelines.from_events(
            users=np.array([2, 0, 0, 0, 2], dtype=np.int64),
            items=np.array([1, 3, 3, 0, 4], dtype=np.int32),
            times=np.arange(5, dtype=np.int64),
            quantities=np.ones(5, dtype=np.float32),
            n_users=3,
        )
        sets = ItemSets.bought(timelines, n_items=4)  # 4 is out of vocabulary
        assert sets.indptr.tolist() == [0, 2, 2, 3]
        assert sets.indices.tolist() == [0, 3, 1]

    def test_contains_and_where(self) -> None:
        sets = item_sets({1, 5}, set(), {5})
        users, items = np.array([0, 1, 2, 2], dtype=np.int64), np.array([5, 5, 1, 5], dtype=np.int32)
        assert sets.contains(users, items).tolist() == [True, False, False, True]
        kept = sets.where(sets.indices == 5)
        assert kept.lengths.tolist() == [1, 0, 1]
        assert kept.indices.tolist() == [5, 5]
