from typing import Any

import numpy as np
import pytest
from tiny_shop import SPEC

from twotower.features.spec import Evaluation, Spec
from twotower.models.slices import Slice, SliceValues
from twotower.pipeline.judge import LAST, OURS, judge_quality, judge_slices
from twotower.pipeline.metric_tables import metric_tables, slice_tables
from twotower.pipeline.scores import Score, Scores, SliceScore

N = 80
TOWN = Slice("town", "Ulm", users=np.ones(N, bool))


def shop(**evaluation: Any) -> Spec:
    return SPEC.model_copy(update={"evaluation": Evaluation.model_validate(evaluation)})


def scores(**ndcg: float) -> Scores:
    """NDCG@20 of all purchases by model; ``_`` stands for a space."""
    found = [Score(name.replace("_", " "), "catalogue", "all", N, {"ndcg@20": value}) for name, value in ndcg.items()]
    return Scores(found, [])


def values(mean: float, n: int = N) -> list[SliceValues]:
    return [SliceValues(TOWN, np.arange(n), np.linspace(0, 2 * mean, n))]


class TestQuality:
    @pytest.mark.parametrize(
        ("ours", "last", "expected"),
        [
            (0.2, None, ""),
            (0.1, None, "ndcg@20 0.1000 does not beat popularity's 0.1000"),
            (0.2, 0.21, ""),
            (0.2, 0.22, "ndcg@20 0.2000 falls below the last pushed version's 0.2200 (limit 0.2090)"),
        ],
    )
    def test_popularity_and_the_last_version(self, ours: float, last: float | None, expected: str) -> None:
        found = scores(recommender=ours) if last is None else scores(recommender=ours, last_pushed=last)
        assert judge_quality(Evaluation(), found, scores(popularity=0.1)) == expected

    def test_another_metric_decides(self) -> None:
        chosen = Evaluation(cutoffs=(5,), metric="mrr")
        found = Scores([Score(OURS, "catalogue", "all", N, {"mrr@5": 0.3, "ndcg@5": 0.1})], [])
        popular = Scores([Score("popularity", "catalogue", "all", N, {"mrr@5": 0.4, "ndcg@5": 0.05})], [])
        assert judge_quality(chosen, found, popular) == "mrr@5 0.3000 does not beat popularity's 0.4000"


class TestSlices:
    def test_the_message_names_slice_values_and_limit(self) -> None:
        assert judge_slices(shop(), values(0.1), values(0.2)) == [
            "slice town, Ulm (80 users): ndcg@20 0.1000, the last pushed version's 0.2000 (limit 0.1800)"
        ]

    def test_what_the_spec_allows(self) -> None:
        assert judge_slices(shop(slice_tolerance=0.6), values(0.1), values(0.2)) == []
        assert judge_slices(shop(min_slice_users=81), values(0.1), values(0.2)) == []
        assert judge_slices(shop(), values(0.2), values(0.2)) == []


class TestTables:
    SPEC = shop(cutoffs=[20, 5])

    def score(self, model: str, task: Any = "all") -> Score:
        metrics = ("recall", "precision", "hit_rate", "ndcg", "map", "mrr")
        accuracy = {f"{name}@{k}": 0.5 for name in metrics for k in (20, 5)}
        lists = {"coverage": 0.1, "gini": 0.9, "novelty": 7.5, "diversity": None, "popularity_lift": -0.25}
        return Score(model, "catalogue", task, N, {**accuracy, **lists})

    def test_one_table_a_task_and_one_for_the_other_cut_offs(self) -> None:
        tables = metric_tables(self.SPEC, [self.score("popularity"), self.score(OURS), self.score(OURS, "new")])
        assert [table.title for table in tables] == [
            "All purchases: catalogue",
            "All purchases: catalogue, other cut-offs",
            "Products new to the user: catalogue",
            "Products new to the user: catalogue, other cut-offs",
        ]
        assert [(row.model, row.ours) for row in tables[0].rows] == [("popularity", False), (OURS, True)]
        first = dict(zip(tables[0].columns, tables[0].rows[0].values, strict=True))
        assert first["NDCG@20"] == 0.5
        assert first["Lift ↓"] == -0.25
        assert first["Diversity"] is None
        assert tables[1].columns[0] == "Recall@5"

    def test_slices_stand_beside_each_other(self) -> None:
        def slice_score(model: str, name: str, users: int, value: float | None) -> SliceScore:
            return SliceScore(model, "all", "town", name, users, value, value, value, judged=users >= 50)

        found = [
            slice_score("popularity", "Ulm", N, 0.1),
            slice_score("popularity", "Bonn", 3, 0.1),
            slice_score("popularity", "Kiel", 0, None),
            slice_score(LAST, "Ulm", N, 0.2),
            slice_score(f"{OURS}: first stage", "Ulm", N, 0.3),
        ]
        (table,) = slice_tables(self.SPEC, found)
        assert list(table.models) == ["popularity", LAST]
        (row,) = table.rows
        assert (row.group, row.name, row.users) == ("town", "Ulm", N)
        assert [cell.value for cell in row.cells if cell] == [0.1, 0.2]
        assert [(count.label, count.value) for count in table.small] == [("town, Bonn", 3), ("town, Kiel", 0)]
