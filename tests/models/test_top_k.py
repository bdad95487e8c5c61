import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features.timelines import Float32
from twotower.models import top_k as module
from twotower.models.top_k import top_k, top_k_products


def stable_sort(scores: Float32, k: int) -> list[list[int]]:
    found: list[list[int]] = np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()
    return found


class TestAgreesWithAStableSort:
    @settings(deadline=None)
    @given(
        st.integers(1, 4),
        st.integers(1, 200),
        st.integers(1, 50),
        st.sampled_from([2, 30, 10_000]),
        st.integers(0, 999),
    )
    def test_with_ties_and_minus_infinity(self, rows: int, n: int, k: int, levels: int, seed: int) -> None:
        scores = np.random.default_rng(seed).integers(0, levels, (rows, n)).astype(np.float32)
        scores[scores == 0] = -np.inf
        assert top_k(scores, k).tolist() == stable_sort(scores, k)

    @pytest.mark.parametrize("n", [1000, 1023, 1024])
    def test_a_row_with_nothing_else_than_minus_infinity(self, n: int) -> None:
        scores = np.random.default_rng(n).standard_normal((40, n)).astype(np.float32)
        scores[3] = -np.inf
        scores[5, 10:] = -np.inf
        assert top_k(scores, 20).tolist() == stable_sort(scores, 20)

    def test_rows_of_distinct_scores_are_not_partitioned(self, monkeypatch: pytest.MonkeyPatch) -> None:
        scores = np.random.default_rng(1).standard_normal((40, 2000)).astype(np.float32)
        monkeypatch.setattr(module, "_partitioned", None)
        assert top_k(scores, 20).tolist() == stable_sort(scores, 20)

    def test_other_columns_orders_of_memory(self) -> None:
        scores = np.random.default_rng(2).standard_normal((2000, 30)).astype(np.float32).T
        assert top_k(scores, 5).tolist() == stable_sort(scores, 5)


@settings(deadline=None)
@given(st.integers(1, 7), st.integers(1, 90), st.integers(1, 40), st.integers(1, 400), st.integers(0, 999))
def test_products_in_blocks_are_those_of_all_at_once(queries: int, items: int, k: int, scores: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Whole numbers, whose products are exact in whatever order they are added, with ties.
    asked, known = (random.integers(-3, 4, (rows, 3)).astype(np.float32) for rows in (queries, items))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SCORES", scores)
        assert top_k_products(asked, known, k).tolist() == stable_sort(asked @ known.T, k)
