"""Early stopping: the metric is that of the validation period, and the best weights come back."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.contract import Towers
from twotower.models.early_stopping import KeepBest, before
from twotower.models.tables import Catalogue, Users

DAY, START = 86_400, 90 * 86_400
N_ITEMS = 4


def shop() -> Users:
    """Two users who knew items 0 and 1 and buy 2 (again 0, too) after the start of validation."""
    rows = [(user, item, day) for user in range(2) for item, day in ((0, 10), (1, 20), (0, 95), (2, 95))]
    users, items, days = np.array(rows).T
    history = Timelines.from_events(users, items.astype(np.int32), days * DAY, np.ones(8, np.float32), 2)
    context = {"context_device": np.arange(8)}
    return Users(np.arange(2).astype(object), np.arange(2), {}, [], history, context, history.latest(0))


SPEC = Spec.model_validate(
    {
        "name": "shop",
        "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
        "split": {"test_from": "1970-04-11"},
        "evaluation": {"cutoffs": [2]},
    }
)
CATALOGUE = Catalogue(np.array([b"%d" % n for n in range(N_ITEMS)], dtype=object), {}, [])


class Bias(tf.keras.Model):  # type: ignore[misc]
    """An item's score is its weight; the query is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = tf.Variable([0.0, 0.0, 0.0, 1.0])

    def candidate(self, features: Any) -> tf.Tensor:
        return tf.gather(self.scores, features["item_id"])[:, tf.newaxis]

    def query(self, features: Any) -> tf.Tensor:
        # Nothing of the validation period is known: each has two old events.
        assert (features["history_item_id"].numpy() < N_ITEMS).sum(axis=1).tolist() == [2] * len(features["user_id"])
        return tf.ones([len(features["user_id"]), 1])


def watch(model: Bias) -> KeepBest:
    users = replace(shop(), context={})
    callback = KeepBest(Towers(model.query, model.candidate), SPEC, CATALOGUE, users, START)
    callback.set_model(model)
    return callback


def test_only_what_was_before_is_known() -> None:
    known = before(shop(), START)
    assert known.history.items.tolist() == [0, 1, 0, 1]
    assert known.context["context_device"].tolist() == [0, 1, 4, 5]


def test_ndcg_by_hand() -> None:
    model = Bias()
    callback = watch(model)
    # Items 2 and 3 are new; 3 stands first, so that the one relevant item has the second place.
    assert callback.ndcg() == pytest.approx(1 / np.log2(3))
    model.scores.assign([9.0, 9.0, 2.0, 1.0])
    assert callback.ndcg() == 1


def test_the_best_weights_come_back_and_training_ends() -> None:
    model = Bias()
    callback = watch(model)
    best: npt.NDArray[Any] = np.array([0.0, 0.0, 2.0, 1.0], np.float32)
    logs: dict[str, float] = {}
    model.stop_training = False
    for epoch, scores in enumerate([[0, 0, 0, 1], best, [0, 0, 0, 1], [0, 0, 0, 3]]):
        assert not model.stop_training
        model.scores.assign(scores)
        callback.on_epoch_end(epoch, logs)
    assert logs["ndcg"] == pytest.approx(1 / np.log2(3))
    assert model.stop_training
    callback.on_train_end()
    np.testing.assert_array_equal(model.scores.numpy(), best)


def test_a_period_without_purchases_is_an_error() -> None:
    model = Bias()
    with pytest.raises(ValueError, match=r"retrieval\.validation_days: no user buys something new"):
        KeepBest(Towers(model.query, model.candidate), SPEC, CATALOGUE, shop(), 99 * DAY)
