from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts
from tfx.utils import path_utils
from tiny_shop import DAY, SPEC, SPLIT, Shop

from twotower.features.spec import Evaluation, Spec, TimeSplit
from twotower.features.timelines import Int32
from twotower.models.contract import TrainingData
from twotower.models.exports import TowersExport
from twotower.models.metrics import ItemSets
from twotower.models.protocol import EvaluationProtocol, Task
from twotower.models.retrievers import fit
from twotower.models.tables import Users
from twotower.models.transformed import Transformed
from twotower.pipeline import blessing as blessings
from twotower.pipeline.artifacts import Summary
from twotower.pipeline.evaluate_retrieval import EvaluateRetrieval
from twotower.pipeline.evaluator import Evaluator
from twotower.pipeline.scores import Score, Scores


def shop_with(**evaluation: Any) -> Spec:
    chosen = {"cutoffs": [3, 1], "resamples": 50, "min_slice_users": 1, **evaluation}
    return SPEC.model_copy(update={"evaluation": Evaluation.model_validate(chosen)})


def listed(evaluator: Evaluator, *names: str) -> Int32:
    """The same list for every asked user."""
    rows = {name.decode(): row for row, name in enumerate(evaluator.catalogue.ids)}
    return np.tile(np.array([rows[name] for name in names], dtype=np.int32), (len(evaluator.asked), 1))


def measured(shop: Shop, **evaluation: Any) -> Evaluator:
    evaluator = Evaluator(shop_with(**evaluation), shop.data())
    lists = listed(evaluator, "i0", "i2", "i8")
    evaluator.measure("ours", lambda protocol, task: lists)
    return evaluator


class TestScores:
    def test_by_hand(self, shop: Shop) -> None:
        score = measured(shop).scores.find("ours", "catalogue", "all")
        assert score is not None
        # u1 alone buys in the test: i2, twice, and the bare item. i2 stands at place 2.
        assert score.users == 1
        assert [score.of(f"{name}@3") for name in ("recall", "precision", "hit_rate", "mrr")] == [0.5, 1 / 3, 1, 0.5]
        assert score.of("recall@1") == 0
        assert score.of("coverage") == 3 / 10
        # Of four users with events i0 was bought by two (u2, u5), i2 by one (u1), i8 by two (u4, u5).
        assert score.of("novelty") == pytest.approx((1 + 2 + 1) / 3)
        # u1 bought six items, all bought by nobody else: 1/4 each.
        assert score.of("popularity_lift") == pytest.approx((2 / 4 + 1 / 4 + 2 / 4) / 3 / (1 / 4) - 1)
        assert set(score.values) >= {"ndcg@3", "ndcg@1", "map@3", "gini", "diversity"}

    def test_products_new_to_the_user(self, shop: Shop) -> None:
        score = measured(shop).scores.find("ours", "catalogue", "new")
        assert score is not None
        assert score.of("recall@3") == 0  # u1 had i2, and the bare item is not listed

    def test_slices(self, shop: Shop) -> None:
        evaluator = measured(shop, item_slices="brand", user_slices=["town"], metric="recall", new_item_days=30)
        found = {(s.task, s.group, s.name): (s.users, s.value) for s in evaluator.scores.slices}
        assert found["all", "town", "Ulm"] == (1, 0.5)
        # i2 is even and found, the bare item has no brand, was never sold, and is not found.
        assert found["all", "brand", "even"] == (1, 1.0)
        assert found["all", "brand", "unknown"] == (1, 0.0)
        assert found["all", "brand", "odd"] == (0, None)
        assert found["all", "items", "new: first sold in the last 30 days of training, or not in it"] == (1, 0.0)
        assert found["all", "history", "light: 5 to 7 events"] == (1, 0.5)
        assert found["all", "history", "new: fewer than 5 events"] == (0, None)

    def test_small_slices_are_counted_and_not_judged(self, shop: Shop) -> None:
        slices = measured(shop, min_slice_users=2).scores.slices
        assert any(s.users == 1 and s.value is not None for s in slices)
        assert not any(s.judged for s in slices)

    def test_json_keeps_everything(self, shop: Shop, tmp_path: Path) -> None:
        scores = measured(shop).scores
        scores.save(tmp_path / "scores.json")
        assert Scores.load(tmp_path / "scores.json") == scores

    def test_a_metric_that_was_never_updated(self) -> None:
        with pytest.raises(ValueError, match="ours, catalogue, all: ndcg@3 is nan, expected a number"):
            Score("ours", "catalogue", "all", 1, {"ndcg@3": float("nan")})


class TestRefusals:
    def test_a_split_with_leakage(self, shop: Shop) -> None:
        early = shop_with().model_copy(update={"split": SPEC.split.model_copy(update={"test_from": _day(5)})})
        with pytest.raises(ValueError, match=f"train: found an event at .*before the split at {SPLIT - 5 * DAY}"):
            Evaluator(early, shop.data())

    @pytest.mark.parametrize(
        ("evaluation", "message"),
        [
            ({"user_slices": ["town"]}, "evaluation.user_slices: the slices by 'town' have no users: none of 1 eval"),
            ({"item_slices": "brand"}, "evaluation.item_slices: the slices by 'brand' have no users"),
        ],
    )
    def test_a_named_slice_without_users(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch, evaluation: dict[str, Any], message: str
    ) -> None:
        data = shop.data()
        read = data.users
        n_towns, bare = len(data.names("user_town")), data.item_ids().tolist().index(b"bare")

        def unknown(split: str) -> Users:
            """Nobody's town is known, and what they buy has no brand."""
            users = read(split)
            labels = replace(users.labels, items=np.full_like(users.labels.items, bare))
            town = np.full(len(users), n_towns)
            return replace(users, labels=labels, features={**users.features, "user_town": town})

        Evaluator(shop_with(**evaluation), data)
        monkeypatch.setattr(data, "users", unknown)
        with pytest.raises(ValueError, match=message):
            Evaluator(shop_with(**evaluation), data)

    def test_nobody_to_evaluate(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        data = shop.data()
        read = data.users

        def silent(split: str) -> Users:
            users = read(split)
            return replace(users, labels=users.labels.latest(0))

        monkeypatch.setattr(data, "users", silent)
        evaluator = Evaluator(shop_with(), data)
        with pytest.raises(ValueError, match="none of 3 users has a relevant item"):
            evaluator.measure("ours", lambda protocol, task: listed(evaluator, "i0", "i1", "i2"))


def _day(days_before: int) -> Any:
    assert isinstance(SPEC.split, TimeSplit)
    return SPEC.split.test_from - np.timedelta64(days_before, "D").item()


class TestEvaluateRetrieval:
    def test_scores_retrieval_beside_the_baselines(self, shop: Shop, tmp_path: Path) -> None:
        whole = Spec.model_validate({**shop_with().model_dump(by_alias=True), "retrieval": {"model": "popularity"}})
        data = Transformed(whole, str(shop.graph), str(shop.examples))
        towers = fit(TrainingData(whole, data.catalogue(), data.users("train"), data.n_users, tmp_path))
        found = _run(whole, shop, towers, data, tmp_path)
        scores = Scores.load(Path(found["summary"].uri, "scores.json"))
        by_model = {(s.model, s.task): s for s in scores.scores}
        assert set(by_model) == {
            ("popularity", "all"), ("popularity", "new"), ("bought most often", "all"),
            ("retrieval", "all"), ("retrieval", "new"),
        }  # fmt: skip
        # The retrieval model is popularity: it ranks as popularity does, and so does not beat it.
        assert by_model["retrieval", "new"].values == by_model["popularity", "new"].values
        blessed, reason = blessings.read(found["blessing"])
        assert not blessed
        assert reason.startswith("retrieval ndcg@3 ")

    def test_popularity_is_ranked_by_buyers(self, shop: Shop) -> None:
        evaluator = Evaluator(shop_with(), shop.data())
        buyers = np.bincount(ItemSets.bought(evaluator.train.history, 10).indices, minlength=10)
        seen: list[tuple[EvaluationProtocol, Task]] = []

        def rank(protocol: EvaluationProtocol, task: Task) -> Int32:
            seen.append((protocol, task))
            return protocol.rank_scores(lambda rows: np.tile(buyers.astype(np.float32), (len(rows), 1)), task)

        evaluator.measure("popularity", rank)
        assert [task for _, task in seen] == ["all", "new"]
        # Newcomers get a list too, for the slices; the main numbers leave them out.
        assert all(protocol.newcomers for protocol, _ in seen)


def _run(whole: Spec, shop: Shop, towers: Any, data: Transformed, folder: Path) -> dict[str, Any]:
    """Run the component's own code on artifacts in ``folder``."""
    inputs = {
        "model": standard_artifacts.Model(),
        "transform_graph": standard_artifacts.TransformGraph(),
        "transformed_examples": standard_artifacts.Examples(),
    }
    outputs = {"blessing": standard_artifacts.ModelBlessing(), "summary": Summary()}
    inputs["transform_graph"].uri, inputs["transformed_examples"].uri = str(shop.graph), str(shop.examples)
    for name, artifact in {"model": inputs["model"], **outputs}.items():
        artifact.uri = str(folder / name)
        (folder / name).mkdir()
    export = TowersExport(towers, data.query_encodings, data.item_encodings, whole.retrieval.history_length)
    tf.saved_model.save(export, path_utils.serving_model_dir(inputs["model"].uri))
    EvaluateRetrieval.test_call(spec=whole.model_dump_json(by_alias=True), **inputs, **outputs)
    return outputs
