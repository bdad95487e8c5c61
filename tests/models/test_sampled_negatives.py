from math import log2
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from twotower.features.timelines import Float32, Int32, Int64
from twotower.models.metrics import ItemSets
from twotower.models.sampled_negatives import SampledNegatives

ML_1M = Path(__file__).parents[3] / "shared" / "data" / "ml-1m-ncf"


def rows(*values: int) -> Int32:
    return np.array(values, dtype=np.int32)


CASES = SampledNegatives(
    users=np.array([4, 0, 4]), positives=rows(1, 2, 0), negatives=np.array([[5, 6, 7], [5, 1, 0], [6, 6, 1]], np.int32)
)


def by_item(scores: list[float]) -> Float32:
    return np.array(scores, dtype=np.float32)


class TestByHand:
    def test_places(self) -> None:
        item_scores = by_item([1, 5, 3, 0, 0, 9, 2, 5])

        def score_pairs(users: Int64, items: Int32) -> Float32:
            return item_scores[items]

        # Item 1 (5) stands behind 5 (9) and 7, which has the same score: place 3. Item 2 (3) behind 5 and 1: place 3.
        # Item 0 (1) behind 6, twice, and 1: place 4.
        found = CASES.evaluate_scores(score_pairs, k=3)
        assert (found.k, found.cases, found.negatives) == (3, 3, 3)
        assert found.hit_rate == pytest.approx(2 / 3)
        assert found.ndcg == pytest.approx(2 / 3 / log2(4))
        assert found.protocol == "sampled: 1 positive among 3 negatives"
        assert CASES.evaluate_scores(score_pairs, k=2).hit_rate == 0

    def test_equal_scores_for_everything_are_worth_nothing(self) -> None:
        assert CASES.evaluate_scores(lambda users, items: np.zeros(items.shape, np.float32), k=3).hit_rate == 0

    def test_minus_one_is_no_negative(self) -> None:
        cases = SampledNegatives(np.array([0]), rows(1), np.array([[2, -1, -1]], np.int32))
        # Item 2 stands before the positive; the last row, which -1 would be, is better than both.
        found = cases.evaluate_scores(lambda users, items: by_item([0, 1, 2, 9])[items], k=2)
        assert found.hit_rate == 1
        assert found.ndcg == pytest.approx(1 / log2(3))

    def test_vectors_give_the_dot_products_scores(self) -> None:
        rng = np.random.default_rng(0)
        queries, items = (rng.standard_normal((n, 3)).astype(np.float32) for n in (5, 8))
        products = queries @ items.T
        expected = CASES.evaluate_scores(lambda users, chosen: products[users[:, None], chosen], k=2)
        assert CASES.evaluate_vectors(queries, items, k=2) == expected


def test_popularity_on_the_ncf_papers_split() -> None:
    """The published .4538 / .2545 give ties to the positive; against it they are a little less."""
    if not ML_1M.is_dir():
        pytest.skip(f"the NCF paper's split of ML-1M is not there: {ML_1M}")
    train = pd.read_csv(ML_1M / "train.pairs.tsv.xz", sep="\t", header=None)
    lines = pd.read_csv(ML_1M / "test.negative.xz", sep="\t", header=None)
    pairs = np.array([[int(row) for row in pair.strip("()").split(",")] for pair in lines[0]])
    negatives = lines.iloc[:, 1:].to_numpy(np.int32)
    # 156 positives stand among their own negatives: they are ranked once.
    assert (negatives == pairs[:, 1:]).sum() == 156
    negatives[negatives == pairs[:, 1:]] = -1
    cases = SampledNegatives(pairs[:, 0], pairs[:, 1].astype(np.int32), negatives)
    buyers = np.bincount(train[1], minlength=negatives.max() + 1)
    found = cases.evaluate_scores(lambda users, items: buyers[items].astype(np.float32), k=10)
    assert (found.hit_rate, found.ndcg) == pytest.approx((0.4531, 0.2541), abs=5e-5)
    assert (found.hit_rate, found.ndcg) == pytest.approx((0.4538, 0.2545), abs=0.001)


class TestRefusals:
    def test_a_positive_among_its_negatives(self) -> None:
        with pytest.raises(ValueError, match="negatives: case 1 has its positive, item 2, among them"):
            SampledNegatives(np.array([0, 1]), rows(1, 2), np.array([[2, 3], [3, 2]], np.int32))

    def test_no_case(self) -> None:
        with pytest.raises(ValueError, match="no case"):
            SampledNegatives(np.array([], dtype=np.int64), rows(), np.empty((0, 3), np.int32))

    def test_shapes(self) -> None:
        with pytest.raises(ValueError, match=r"found shapes \[2\] and \[1, 2\], expected \[2\] and \[2, n\]"):
            SampledNegatives(np.array([0, 1]), rows(1, 2), np.array([[4, 3]], np.int32))

    def test_a_positive_that_was_trained_on(self) -> None:
        train = ItemSets(np.array([0, 1, 1, 1, 1, 2]), rows(2, 7))
        with pytest.raises(ValueError, match="1 of 3 pairs are in train too, the first is user 0 with item 2"):
            CASES.check_unseen(train)

    def test_scores(self) -> None:
        with pytest.raises(ValueError, match=r"scores of shape \[3, 3\], expected \[3, 4\]"):
            CASES.evaluate_scores(lambda users, items: np.zeros((3, 3)), k=1)
        with pytest.raises(ValueError, match="not a number"):
            CASES.evaluate_scores(lambda users, items: np.full(items.shape, np.nan), k=1)
        with pytest.raises(ValueError, match="k: found 0"):
            CASES.evaluate_scores(lambda users, items: np.zeros(items.shape), k=0)
