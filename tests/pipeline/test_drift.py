"""Drift: the tiny shop's statistics beside those of a changed one, and beside requests that a server logged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from test_skew import log, request
from tiny_shop import ITEMS, SPEC, USERS, Shop

from twotower.features import records
from twotower.features.continuous import Drift
from twotower.pipeline.drift import SERVING, SINCE_LAST, Both, compare, logs_fingerprint, said
from twotower.pipeline.skew_distances import Difference, Statistics


def statistics(folder: Path, name: str, examples: list[dict[str, Any]]) -> Statistics:
    file = folder / f"{name}.tfrecord"
    with tf.io.TFRecordWriter(str(file)) as writer:
        for example in examples:
            writer.write(records.serialize(example))
    return tfdv.generate_statistics_from_tfrecord(str(file))


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("now")
    return Both(statistics(folder, "train", USERS), statistics(folder, "items", ITEMS))


def failed(found: dict[str, list[Difference]], where: str) -> dict[str, str]:
    return {one.feature: said(one) for one in found[where] if not one.passed}


def test_the_same_data_have_not_drifted(now: Both, shop: Shop) -> None:
    found = compare(SPEC, Drift(threshold=0), now, now, shop.graph)
    assert failed(found, SINCE_LAST) == {}
    names = {one.feature for one in found[SINCE_LAST]}
    assert names >= {
        "user_town",
        "history_item_id",
        "history_length",
        "context_store",
        "history_quantity",
        "item_brand",
    }


def test_what_drifted_is_named_with_its_distance(now: Both, shop: Shop, tmp_path: Path) -> None:
    users, items = copy.deepcopy(USERS), copy.deepcopy(ITEMS)
    # Ulm and Bonn were half of the towns each; four of nine brands were odd. A price is gone from three items of nine.
    users[0]["user_town"] = [b"Bonn"]
    for item in items[:9]:
        item["item_brand"] = [b"even"]
    for item in items[:3]:
        del item["item_price"]
    before = Both(statistics(tmp_path, "train", users), statistics(tmp_path, "items", items))
    found = failed(compare(SPEC, Drift(), now, before, shop.graph), SINCE_LAST)
    assert set(found) == {"user_town", "item_brand", "item_price"}
    assert found["user_town"].startswith("other values, L-infinity 0.500, missing 0.600 and now 0.600 (limit 0.1)")
    assert found["item_brand"].startswith("other values, L-infinity 0.444")
    assert "missing less often" in found["item_price"]
    allowed = Drift(thresholds={"user_town": 0.5, "item_brand": 0.5, "item_price": 1})
    assert failed(compare(SPEC, allowed, now, before, shop.graph), SINCE_LAST) == {}


def test_serving_logs_are_compared_as_twotower_skew_does(now: Both, shop: Shop, tmp_path: Path) -> None:
    prefix = str(tmp_path / "log-")
    drift = Drift(serving_logs=prefix, thresholds={"unknown_users": 1})
    assert compare(SPEC, drift, now, None, shop.graph) == {}
    before = logs_fingerprint(drift)
    log(Path(prefix), [request([{**user, "user_town": [b"Rome"]} for user in USERS])])
    assert logs_fingerprint(drift) != before
    found = compare(SPEC, drift, now, None, shop.graph)
    assert list(found) == [SERVING]
    assert "other values" in failed(found, SERVING)["user_town"]
