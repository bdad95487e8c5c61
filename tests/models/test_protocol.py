from dataclasses import astuple, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features.timelines import Float32, Int32, Int64, Timelines
from twotower.models import protocol as protocol_module
from twotower.models.metrics import RankingMetrics
from twotower.models.protocol import EvaluationProtocol, Task

SPLIT = 10
Event = tuple[int, int, int]  # user, item, time


def timelines(events: list[Event], n_users: int) -> Timelines:
    users, items, times = np.array(events, dtype=np.int64).reshape(-1, 3).T
    return Timelines.from_events(users, items.astype(np.int32), times, np.ones(len(users), np.float32), n_users)


def split(events: list[Event], n_users: int, n_items: int, min_users: int, k: int) -> EvaluationProtocol:
    every = timelines(events, n_users)
    return EvaluationProtocol(every.before(SPLIT), every.before(SPLIT), every.since(SPLIT), n_items, min_users, k)


@pytest.fixture
def shop() -> EvaluationProtocol:
    """Four users; items 0, 1 and 2 have two buyers before the split, 3 has one, 4 none; 5 is out of vocabulary."""
    return split(
        [
            *[(0, 0, 1), (0, 1, 1), (0, 0, 2), (0, 0, 10), (0, 2, 10), (0, 2, 11), (0, 3, 11), (0, 5, 12)],
            *[(1, 1, 9), (1, 2, 3), (1, 1, 10)],
            *[(2, 3, 1), (2, 5, 1), (2, 0, 10)],  # no candidate before the split
            *[(3, 2, 1), (3, 0, 2), (3, 4, 15)],  # no candidate from the split on
        ],
        n_users=4,
        n_items=5,
        min_users=2,
        k=2,
    )


def numbers(metrics: RankingMetrics) -> tuple[float, ...]:
    return astuple(metrics)[:-1]


class TestByHand:
    def test_candidates_have_enough_distinct_buyers_in_train(self, shop: EvaluationProtocol) -> None:
        # User 0 bought item 0 twice, which is one buyer; with user 3 that makes two.
        assert shop.candidates.tolist() == [True, True, True, False, False]

    def test_without_a_minimum_the_whole_catalogue(self, shop: EvaluationProtocol) -> None:
        everything = replace(shop, min_users=0)
        assert everything.n_candidates == 5
        assert everything.evaluated_users("all").tolist() == [0, 1, 2, 3]

    def test_relevant_items_of_all_purchases(self, shop: EvaluationProtocol) -> None:
        assert shop.evaluated_users("all").tolist() == [0, 1]
        relevant = shop.relevant("all")
        assert relevant.lengths.tolist() == [2, 1, 0, 0]
        assert relevant.indices.tolist() == [0, 2, 1]

    def test_relevant_items_of_new_purchases(self, shop: EvaluationProtocol) -> None:
        # User 0 bought 0 before, so 2 alone is new; user 1 bought 1 before.
        assert shop.evaluated_users("new").tolist() == [0]
        assert shop.relevant("new").indices.tolist() == [2]

    def test_scores(self, shop: EvaluationProtocol) -> None:
        # The best of all, 4 and 3, are no candidates: the lists are [1, 0] for both users.
        def score_block(rows: Int64) -> Float32:
            return np.tile(np.array([2, 3, 1, 8, 9], dtype=np.float32), (len(rows), 1))

        everything = shop.evaluate_scores(score_block, "all")
        assert everything.users == 2
        # User 0: 0 found of {0, 2}, at place 2. User 1: 1 found of {1}, at place 1.
        assert everything.recall == (1 / 2 + 1) / 2
        assert everything.map == ((1 / 2) / 2 + 1) / 2
        assert everything.mrr == (1 / 2 + 1) / 2
        assert everything.coverage == 2 / 3
        # New items of user 0: 0 and 1 are out, the list is [2], all of {2}.
        new = shop.evaluate_scores(score_block, "new")
        assert (new.users, new.recall, new.ndcg, new.map, new.mrr, new.coverage) == (1, 1, 1, 1, 1, 1 / 3)

    def test_served_lists_lose_what_is_no_candidate(self, shop: EvaluationProtocol) -> None:
        lists = np.array([[4, 1, 3, 0, 2], [3, 2, 0, 1, -1], [0, 1, 2, 3, 4], [-1] * 5], dtype=np.int32)
        # Candidates in their order, two places: [1, 0] and [2, 0].
        everything = shop.evaluate_lists(lists, "all")
        assert everything.per_user.recall.tolist() == [1 / 2, 0]
        assert everything.per_user.reciprocal_rank.tolist() == [1 / 2, 0]
        # For user 0 the bought 1 and 0 are out as well: [2].
        assert shop.evaluate_lists(lists, "new").per_user.reciprocal_rank.tolist() == [1]

    def test_the_scores_belong_to_the_rows_that_are_asked_for(
        self, shop: EvaluationProtocol, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protocol_module, "BLOCK_SCORES", 1)
        blocks = []

        def score_block(rows: Int64) -> Float32:
            blocks.append(rows.tolist())
            return np.array([[9, 1, 8, 0, 0], [0, 9, 0, 0, 0]], dtype=np.float32)[rows]

        assert shop.evaluate_scores(score_block, "all").recall == 1
        assert blocks == [[0], [1]]

    def test_newcomers_count_where_they_are_asked_for(self, shop: EvaluationProtocol) -> None:
        everybody = replace(shop, newcomers=True)
        assert everybody.evaluated_users("all").tolist() == [0, 1, 2]
        assert everybody.relevant("new").lengths.tolist() == [1, 0, 1, 0]

    def test_one_ranking_at_several_cut_offs(self, shop: EvaluationProtocol) -> None:
        scores = np.tile(np.array([2, 3, 1, 8, 9], dtype=np.float32), (4, 1))
        lists = shop.rank_scores(lambda rows: scores[rows], "all")
        assert lists.tolist() == [[1, 0], [1, 0], [-1, -1], [-1, -1]]
        assert [found.recall for found in shop.evaluate_at(lists, "all", [1, 2])] == [1 / 2, 3 / 4]

    def test_scores_are_not_written_to(self, shop: EvaluationProtocol) -> None:
        everything = replace(shop, min_users=0)
        scores = np.ones((4, 5), dtype=np.float32)
        everything.evaluate_scores(lambda rows: scores[: len(rows)], "new")
        assert (scores == 1).all()

    def test_minus_infinity_is_not_recommended(self, shop: EvaluationProtocol) -> None:
        def score_block(rows: Int64) -> Float32:
            return np.tile(np.array([-np.inf, 1, -np.inf, 1, 1], dtype=np.float32), (len(rows), 1))

        assert shop.evaluate_scores(score_block, "all").coverage == 1 / 3


@st.composite
def protocols(draw: st.DrawFn) -> EvaluationProtocol:
    """Protocols with at least one user to evaluate in both tasks, and items out of vocabulary."""
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(2, 9))
    event = st.tuples(st.integers(0, n_users - 1), st.integers(0, n_items + 1), st.integers(0, 2 * SPLIT))
    events = [*draw(st.lists(event, max_size=40)), (0, 0, 1), (0, 1, SPLIT)]
    events = [(user, item, time) for user, item, time in events if (user, item) != (0, 1) or time >= SPLIT]
    return split(events, n_users, n_items, min_users=0, k=draw(st.integers(1, n_items)))


def coarse_scores(protocol: EvaluationProtocol, seed: int) -> Float32:
    """Scores of few levels, so that many tie."""
    return np.random.default_rng(seed).integers(0, 3, (protocol.history.n_users, protocol.n_items)).astype(np.float32)


def full_sort(protocol: EvaluationProtocol, scores: Float32, task: Task) -> Int32:
    """Every user's whole ranking, from a plain sort over Python tuples."""
    lists = np.full(scores.shape, -1, dtype=np.int32)
    for user in range(protocol.history.n_users):
        before = set(protocol.history.select([user]).items.tolist()) if task == "new" else set()
        items = [item for item in np.flatnonzero(protocol.candidates).tolist() if item not in before]
        items.sort(key=lambda item: (-scores[user, item], item))
        lists[user, : len(items)] = items
    return lists


class TestProperties:
    @settings(deadline=None)
    @given(protocols(), st.integers(0, 100), st.sampled_from(["all", "new"]), st.sampled_from([1, 20, 1 << 24]))
    def test_blocks_agree_with_a_full_sort(
        self, protocol: EvaluationProtocol, seed: int, task: Task, block_scores: int
    ) -> None:
        scores = coarse_scores(protocol, seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol_module, "BLOCK_SCORES", block_scores)
            found = protocol.evaluate_scores(lambda rows: scores[rows], task)
        assert numbers(found) == numbers(protocol.evaluate_lists(full_sort(protocol, scores, task), task))

    @settings(deadline=None)
    @given(protocols(), st.integers(0, 100), st.sampled_from(["all", "new"]))
    def test_lists_with_everything_in_lose_only_what_is_no_candidate(
        self, protocol: EvaluationProtocol, seed: int, task: Task
    ) -> None:
        scores = coarse_scores(protocol, seed)
        unfiltered = np.argsort(-scores, axis=1, kind="stable").astype(np.int32)
        found = protocol.evaluate_lists(unfiltered, task)
        assert numbers(found) == numbers(protocol.evaluate_scores(lambda rows: scores[rows], task))

    @settings(deadline=None)
    @given(protocols(), st.integers(0, 100), st.sampled_from(["all", "new"]), st.sampled_from([1, 1 << 22]))
    def test_vectors_agree_with_their_products(
        self, protocol: EvaluationProtocol, seed: int, task: Task, block_scores: int
    ) -> None:
        rng = np.random.default_rng(seed)
        # Small whole numbers: products that tie, and are exact.
        queries, items = (
            rng.integers(-1, 2, (n, 2)).astype(np.float32) for n in (protocol.history.n_users, protocol.n_items)
        )
        products = queries @ items.T
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(protocol_module, "BLOCK_SCORES", block_scores)
            lists = protocol.rank_vectors(queries, items, task)
        assert lists.tolist() == protocol.rank_scores(lambda rows: products[rows], task).tolist()
        assert protocol.rank_vectors(lambda rows: queries[rows], items, task).tolist() == lists.tolist()
        found = protocol.evaluate_vectors(queries, items, task)
        assert numbers(found) == numbers(protocol.evaluate_lists(lists, task))

    @settings(deadline=None)
    @given(protocols(), st.sampled_from(["all", "new"]))
    def test_scores_that_know_the_labels_are_perfect(self, protocol: EvaluationProtocol, task: Task) -> None:
        scores = np.zeros((protocol.history.n_users, protocol.n_items), dtype=np.float32)
        relevant = protocol.relevant(task)
        scores[relevant.users, relevant.indices] = 1
        found = protocol.evaluate_scores(lambda rows: scores[rows], task)
        assert (found.ndcg, found.map, found.mrr) == (1, 1, 1)
        assert found.users == len(protocol.evaluated_users(task))


class TestRefusals:
    def test_a_history_that_reaches_into_the_labels(self, shop: EvaluationProtocol) -> None:
        late = timelines([(0, 0, 1), (1, 1, SPLIT)], n_users=4)
        with pytest.raises(ValueError, match="history: user row 1 has an event at 10, expected all of them strictly"):
            replace(shop, history=late)

    def test_rows_that_are_not_aligned(self, shop: EvaluationProtocol) -> None:
        with pytest.raises(ValueError, match="labels: found 2 users, expected 4"):
            replace(shop, labels=shop.labels.select([0, 1]))

    def test_no_candidate(self, shop: EvaluationProtocol) -> None:
        with pytest.raises(ValueError, match="no item of 5 was bought by 9 users"):
            replace(shop, min_users=9)

    def test_no_place(self, shop: EvaluationProtocol) -> None:
        with pytest.raises(ValueError, match="k: found 0"):
            replace(shop, k=0)

    def test_nobody_to_evaluate(self, shop: EvaluationProtocol) -> None:
        empty = replace(shop, labels=shop.labels.before(0))
        with pytest.raises(ValueError, match="none of 4 users has a relevant item"):
            empty.evaluate_scores(lambda rows: np.zeros((len(rows), 5), dtype=np.float32), "all")

    def test_scores_of_another_shape(self, shop: EvaluationProtocol) -> None:
        with pytest.raises(ValueError, match=r"found scores of shape \[2, 3\], expected \[2, 5\]"):
            shop.evaluate_scores(lambda rows: np.zeros((len(rows), 3), dtype=np.float32), "all")

    def test_scores_that_are_no_numbers(self, shop: EvaluationProtocol) -> None:
        with pytest.raises(ValueError, match="not a number"):
            shop.evaluate_scores(lambda rows: np.full((len(rows), 5), np.nan, dtype=np.float32), "all")

    @pytest.mark.parametrize(
        ("queries", "items", "message"),
        [
            (np.zeros((4, 2)), np.zeros((4, 2)), r"items: found shape \[4, 2\], expected \[5, dim\]"),
            (np.zeros((4, 3)), np.zeros((5, 2)), r"queries: found shape \[4, 3\], expected \[4, 2\]"),
            (np.full((4, 2), np.nan), np.zeros((5, 2)), "queries: found a vector that is not finite"),
            (np.zeros((4, 2)), np.full((5, 2), np.inf), "items: found a vector that is not finite"),
        ],
    )
    def test_vectors(self, shop: EvaluationProtocol, queries: Float32, items: Float32, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            shop.evaluate_vectors(queries.astype(np.float32), items.astype(np.float32), "all")

    def test_a_block_of_queries_of_another_shape(self, shop: EvaluationProtocol) -> None:
        with pytest.raises(ValueError, match=r"queries: found a block of shape \[1, 2\], expected \[2, 2\]"):
            shop.evaluate_vectors(lambda rows: np.zeros((1, 2), np.float32), np.zeros((5, 2), np.float32), "all")

    def test_an_unknown_task(self, shop: EvaluationProtocol) -> None:
        with pytest.raises(ValueError, match="task: found 'old', expected one of 'all', 'new'"):
            shop.evaluated_users("old")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("lists", "message"),
        [
            ([[0, 1]] * 3, "found 3 rows, expected one for each of 4 users"),
            ([[0, 5]] * 4, "found item row 5, expected rows below the catalogue's 5"),
            ([[4, 4, 0]] * 4, "found item 4 twice"),
            ([[0]] * 4, r"found shape \[4, 1\] with k = 2"),
        ],
    )
    def test_served_lists_of_another_shape(
        self, shop: EvaluationProtocol, lists: list[list[int]], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            shop.evaluate_lists(np.array(lists, dtype=np.int32), "all")
