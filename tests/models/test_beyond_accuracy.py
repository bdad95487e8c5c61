from itertools import combinations
from math import log2

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity
from tiny_shop import SPEC, Shop

from twotower.features.timelines import Int32, Timelines
from twotower.models.beyond_accuracy import Audience, beyond_accuracy, content_vectors, gini
from twotower.models.metrics import ItemSets

# Ten users in train: 8 bought item 0, 4 item 1, 2 item 2, and nobody item 3.
AUDIENCE = Audience(np.array([8, 4, 2, 0]), users=10)
NOBODY = ItemSets(np.zeros(3, np.int64), np.empty(0, np.int32))


def rows(*lists: list[int]) -> Int32:
    return np.array(lists, dtype=np.int32)


class TestByHand:
    def test_novelty_is_self_information(self) -> None:
        found = beyond_accuracy(rows([0, 2, 1], [3, -1, -1]), NOBODY, AUDIENCE, n_candidates=4, k=2)
        # Cut at 2. The first list: 8 and 2 of 10 users. The second: an item of nobody, as if of one.
        first = (-log2(0.8) - log2(0.2)) / 2
        assert found.novelty == pytest.approx((first - log2(0.1)) / 2)

    def test_popularity_lift_compares_with_what_was_bought(self) -> None:
        bought = ItemSets(np.array([0, 2, 3]), rows([1, 2, 2])[0])
        found = beyond_accuracy(rows([0, 1], [1, -1]), bought, AUDIENCE, n_candidates=4, k=2)
        # Recommended: (.8 + .4) / 2 and .4, mean .5. Bought: (.4 + .2) / 2 and .2, mean .25. Twice as popular.
        assert found.popularity_lift == pytest.approx(1.0)

    def test_users_without_a_purchase_or_a_list_are_left_out_of_the_lift(self) -> None:
        bought = ItemSets(np.array([0, 1, 1, 2]), rows([1, 2])[0])
        found = beyond_accuracy(rows([0, -1], [2, -1], [-1, -1]), bought, AUDIENCE, n_candidates=4, k=2)
        assert found.popularity_lift == pytest.approx(0.8 / 0.4 - 1)
        assert beyond_accuracy(rows([0], [1]), NOBODY, AUDIENCE, 4, k=1).popularity_lift is None

    def test_diversity_of_one_hot_items(self) -> None:
        vectors = scipy.sparse.csr_matrix([[1, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 0]])
        found = beyond_accuracy(rows([0, 1, 2], [2, 3, -1], [1, -1, -1]), _nobody(3), AUDIENCE, 4, 3, vectors)
        # Pairs of the first list: alike, unlike, unlike. Of the second: a zero vector is like none. The third: none.
        assert found.diversity == pytest.approx((2 / 3 + 1) / 2)
        assert beyond_accuracy(rows([0], [1]), NOBODY, AUDIENCE, 4, 1, vectors).diversity is None
        assert beyond_accuracy(rows([0, 1], [1, 0]), NOBODY, AUDIENCE, 4, 2).diversity is None

    def test_gini(self) -> None:
        assert gini(np.array([3, 3, 3]), 3) == 0
        assert gini(np.array([0, 7]), 5) == pytest.approx(1)
        # Of 1 and 3: (1 * -1 + 3 * 1) / (1 * 4).
        assert gini(np.array([3, 1]), 2) == pytest.approx(0.5)
        assert beyond_accuracy(rows([0, 1], [0, 2]), NOBODY, AUDIENCE, 4, k=1).gini == pytest.approx(1)

    def test_nothing_recommended(self) -> None:
        with pytest.raises(ValueError, match="found no item in 2 lists"):
            beyond_accuracy(rows([-1, -1], [-1, -1]), NOBODY, AUDIENCE, 4, k=2)


def _nobody(n: int) -> ItemSets:
    return ItemSets(np.zeros(n + 1, np.int64), np.empty(0, np.int32))


class TestProperties:
    @settings(deadline=None)
    @given(st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any), st.integers(0, 4))
    def test_gini_agrees_with_the_mean_difference(self, counts: list[int], more: int) -> None:
        every = np.array(counts + [0] * more)
        n = len(every)
        differences = sum(abs(a - b) for a in every for b in every)
        expected = differences / (2 * n * every.sum()) * n / (n - 1) if n > 1 else 0
        assert gini(np.array(counts), n) == pytest.approx(expected)

    @settings(deadline=None)
    @given(st.lists(st.permutations(range(6)), min_size=1, max_size=5), st.integers(2, 6), st.integers(0, 99))
    def test_diversity_agrees_with_scikit_learn(self, lists: list[list[int]], k: int, seed: int) -> None:
        vectors = np.random.default_rng(seed).standard_normal((6, 3))
        cosines = cosine_similarity(vectors)
        expected = np.mean([1 - np.mean([cosines[a, b] for a, b in combinations(one[:k], 2)]) for one in lists])
        audience = Audience(np.ones(6, np.int64), users=2)
        found = beyond_accuracy(rows(*lists), _nobody(len(lists)), audience, 6, k, scipy.sparse.csr_matrix(vectors))
        assert found.diversity == pytest.approx(expected)


def test_the_audience_counts_users_once_and_only_those_with_events() -> None:
    users, items = np.array([0, 0, 2, 2]), rows([1, 1, 1, 0])[0]
    train = Timelines.from_events(users, items, np.arange(4), np.ones(4, np.float32), n_users=4)
    audience = Audience.of(train, n_items=3)
    assert audience.buyers.tolist() == [1, 2, 0]
    assert audience.share.tolist() == [0.5, 1, 0]


def test_content_is_labels_words_and_sequences(shop: Shop) -> None:
    catalogue = shop.data().catalogue()
    rows_of = {name.decode(): row for row, name in enumerate(catalogue.ids)}
    vectors = content_vectors(catalogue, SPEC.item_features)
    assert vectors is not None
    alike = cosine_similarity(vectors)

    def cosine(a: str, b: str) -> float:
        return float(alike[rows_of[a], rows_of[b]])

    # i1 and i7: the brand and both tags; of the title "red tea no 1" three words are kept, and so all of them agree.
    assert cosine("i1", "i7") == pytest.approx(1)
    # i1 and i4: the tags and the title agree, the brand does not.
    assert cosine("i1", "i4") == pytest.approx(2 / 3)
    # i1 and i3: the brand and the title agree, and one tag of two.
    assert cosine("i1", "i3") == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert cosine("bare", "i1") == 0
    assert content_vectors(catalogue, {"price": SPEC.item_features["price"]}) is None
