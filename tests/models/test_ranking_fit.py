"""The multi-task ranker learns who buys again, from past snapshots, and says how probable it is."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.candidates import TowerRetriever
from twotower.models.moments import training_end
from twotower.models.queries import Queries
from twotower.models.ranking_contract import RankingData
from twotower.models.ranking_fit import build_ranker, fit
from twotower.models.tables import Catalogue, Users
from twotower.models.training import CURVE_FILE

DAY = 86_400
N_ITEMS = 12
SPLIT = 60


def shop_spec(loss: str, trees: int = 0) -> Spec:
    return Spec.model_validate(
        {
            "name": "shop",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": "1970-03-02"},
            "ranking": {
                **{"horizon_days": 10, "snapshots": 2, "snapshot_days": 10, "list_size": 8, "candidates": N_ITEMS},
                **{"history_length": 30, "units": [16], "batch_size": 16, "epochs": 12, "learning_rate": 0.01},
                "loss": loss,
                "trees": trees,
            },
        }
    )


def habits(seed: int, n_users: int) -> Users:
    """Everyone buys two items every five days, and four others once before day 35."""
    random = np.random.default_rng(seed)
    events = []
    for user in range(n_users):
        items = random.permutation(N_ITEMS)
        events += [(user, item, day) for item in items[:2] for day in range(3, SPLIT, 5)]
        events += [(user, item, int(random.integers(0, 35))) for item in items[2:6]]
    users, items, days = np.array(events, dtype=np.int64).T
    ones = np.ones(len(users), np.float32)
    history = Timelines.from_events(users, items.astype(np.int32), days * DAY, ones, n_users)
    rows = np.arange(n_users)
    return Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0))


@pytest.mark.parametrize(("loss", "trees"), [("pointwise", 0), ("listwise", 0), ("listwise", 20)])
def test_repeat_purchases_are_learned(loss: str, trees: int, tmp_path: Path) -> None:
    spec, train, test = shop_spec(loss, trees), habits(1, 60), habits(2, 30)
    assert training_end(spec.split, train.history) == SPLIT * DAY
    catalogue = Catalogue(np.arange(N_ITEMS).astype(object), {}, [])
    # The multi-task ranker does not ask the towers.
    nobody = cast(TowerRetriever, None)
    data = RankingData(spec, catalogue, train, len(train), Queries(spec, train, N_ITEMS), nobody, tmp_path)
    ranker = fit(data)
    queries, rows = Queries(spec, test, N_ITEMS), np.arange(len(test))
    times = tf.constant(np.full(len(test), SPLIT * DAY))
    features = queries.features(tf.constant(rows), tf.constant(queries.history_ends(rows)), times, 30)
    found = ranker(features, tf.tile(tf.range(N_ITEMS)[tf.newaxis], [len(test), 1]))["bought"].numpy()
    counts = np.zeros((len(test), N_ITEMS))
    np.add.at(counts, (test.history.users, test.history.items), 1)
    often = counts > 1
    assert (often.sum(axis=1) == 2).all()
    best = np.argsort(-found, axis=1)[:, :2]
    assert np.take_along_axis(often, best, axis=1).mean() > 0.9
    # Two of twelve are bought, though a list keeps eight (of which two would be .25).
    assert found.mean() == pytest.approx(2 / 12, abs=0.07)
    assert (tmp_path / CURVE_FILE).exists()


def test_calibration_fits_a_slope_and_an_offset() -> None:
    tf.keras.utils.set_random_seed(1)
    catalogue = Catalogue(np.arange(N_ITEMS).astype(object), {}, [])
    ranker = build_ranker(shop_spec("listwise"), catalogue, habits(1, 9))
    random = np.random.default_rng(0)
    width = len(ranker.numbers.names)
    numbers = random.normal(size=(50, 40, width)).astype(np.float32)
    rows = tf.zeros([50, 40], tf.int32)
    logits = ranker.network({}, rows, tf.constant(numbers))["bought"].numpy()
    truth = 1 / (1 + np.exp(-(0.5 * (logits - logits.mean()) / logits.std() - 1)))
    bought = (random.random(truth.shape) < truth).astype(np.float32)
    inputs = {"candidates": rows, "numbers": numbers, "bought": bought, "weight": np.ones_like(bought)}
    ranker.calibrate(tf.data.Dataset.from_tensor_slices(inputs).batch(10))
    calibrated = 1 / (1 + np.exp(-(ranker.slope.numpy() * logits + ranker.offset.numpy())))
    assert calibrated.mean() == pytest.approx(bought.mean(), abs=1e-3)
    assert np.abs(calibrated - truth).mean() < 0.03
