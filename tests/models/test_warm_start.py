"""Warm start: each token keeps its vector whatever its place is now, and other towers start cold, saying why."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.contract import Towers, TrainingData
from twotower.models.queries import DAY, Queries
from twotower.models.retrieval import Retrieval, build_towers, fit
from twotower.models.tables import Catalogue, Users
from twotower.models.training_events import TrainingEvents, training_dataset, two_tower
from twotower.models.warm_start import FILE, Base, WarmStart

SETTINGS = {
    "embedding_dim": 6,
    "graph_factors": 2,
    "tower_units": [8],
    "history_length": 4,
    "min_id_count": 1,
    "batch_size": 64,
    "epochs": 1,
    "events_per_epoch": 6400,
    "uniform_negatives": 4,
    "learning_rate": 0.01,
    "warm_start": True,
}
ITEMS = [b"a", b"b", b"c", b"d", b"e", b"f"]
USERS = [b"u%d" % n for n in range(24)]
BRANDS = [b"x", b"y"]


@dataclass(frozen=True)
class Shop:
    """Users who buy of one brand, under vocabularies in any order."""

    items: list[bytes]
    users: list[bytes]
    brands: list[bytes]

    @property
    def vocabularies(self) -> dict[str, list[bytes]]:
        return {"item_id": self.items, "user_id": self.users, "item_brand": self.brands}

    @property
    def catalogue(self) -> Catalogue:
        brand = np.array([self.brands.index(BRANDS[item[0] % 2]) for item in self.items])
        encodings = [Encoding("item_brand", "index", len(self.brands) + 1)]
        return Catalogue(np.array(self.items, object), {"item_brand": brand}, encodings)

    @property
    def people(self) -> Users:
        events = [
            (row, self.items.index(item), 60 + 10 * n + row % 7)
            for row, user in enumerate(self.users)
            for n, item in enumerate(bought(user))
            if item in self.items
        ]
        users, items, days = np.array(events, dtype=np.int64).T
        ones = np.ones(len(users), np.float32)
        history = Timelines.from_events(users, items.astype(np.int32), days * DAY, ones, len(self.users))
        rows = np.arange(len(self.users))
        return Users(np.array(self.users, object), rows, {}, [], history, {}, history.latest(0))

    def data(self, spec: Spec, folder: Path, base: Path | None = None) -> TrainingData:
        warm = WarmStart(self.vocabularies, base)
        return TrainingData(spec, self.catalogue, self.people, len(self.users), folder, warm)

    def item_vectors(self, towers: Towers) -> dict[bytes, npt.NDArray[np.float32]]:
        """Each item's trained dimensions; those of the graph and the prior are of the data, not of the training."""
        rows = np.arange(len(self.items))
        vectors = towers.candidate({"item_id": tf.constant(rows), "item_brand": self.catalogue.features["item_brand"]})
        return dict(zip(self.items, np.asarray(vectors)[:, :5], strict=True))

    def query_vectors(self, towers: Towers, spec: Spec) -> dict[bytes, npt.NDArray[np.float32]]:
        people = self.people
        queries = Queries(spec, people, len(self.items))
        rows, ends = tf.range(len(self.users), dtype=tf.int64), tf.constant(people.history.offsets[1:])
        times = tf.fill([len(self.users)], tf.constant(100 * DAY, tf.int64))
        vectors = towers.query(queries.features(rows, ends, times, 4))
        return dict(zip(self.users, np.asarray(vectors)[:, :5], strict=True))


def bought(user: bytes) -> list[bytes]:
    number = int(user[1:])
    return [ITEMS[(number % 2 + 2 * n * (1 + number % 2)) % len(ITEMS)] for n in range(4)]


def shop_spec(**retrieval: Any) -> Spec:
    return Spec.model_validate(
        {
            "name": "shop",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": "1970-04-11"},
            "retrieval": {**SETTINGS, **retrieval},
        }
    )


SPEC = shop_spec()
OLD = Shop(ITEMS, USERS, BRANDS)


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> tuple[Towers, Path]:
    """A trained model, and the folder that it left its weights in."""
    folder = tmp_path_factory.mktemp("last")
    towers = fit(OLD.data(SPEC, folder))
    base = Base.of(towers.query, towers.candidate, two_tower(SPEC), OLD.catalogue.encodings, OLD.vocabularies)  # type: ignore[arg-type]
    base.save(folder / FILE)
    return towers, folder


def carried(shop: Shop, folder: Path, spec: Spec = SPEC) -> Towers:
    """Towers with the last weights and not a step of training."""
    base = WarmStart(shop.vocabularies, folder).base(two_tower(spec), shop.catalogue.encodings)
    assert base is not None
    events = TrainingEvents.choose(spec, shop.people, len(shop.items))
    towers = build_towers(spec, shop.catalogue, shop.people, len(shop.users), events, base.widths)
    batch = next(iter(training_dataset(spec, shop.people, len(shop.items), events, 1)))
    Retrieval(*towers, shop.catalogue, events.item_share, spec).create_variables(batch)
    base.carry_into(*towers, shop.vocabularies)
    return Towers(*towers)


def assert_same(ours: Mapping[bytes, Any], theirs: Mapping[bytes, Any], names: list[bytes]) -> None:
    for name in names:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, atol=1e-6, err_msg=name.decode())


def test_the_same_vocabularies_give_the_same_towers(last: tuple[Towers, Path]) -> None:
    towers, folder = last
    again = carried(OLD, folder)
    assert_same(OLD.item_vectors(again), OLD.item_vectors(towers), ITEMS)
    assert_same(OLD.query_vectors(again, SPEC), OLD.query_vectors(towers, SPEC), USERS)


def test_each_token_keeps_its_vector_where_the_vocabularies_are_in_another_order(last: tuple[Towers, Path]) -> None:
    towers, folder = last
    other = Shop(ITEMS[::-1], [*USERS[5:], *USERS[:5]], BRANDS[::-1])
    again = carried(other, folder)
    assert_same(other.item_vectors(again), OLD.item_vectors(towers), ITEMS)
    assert_same(other.query_vectors(again, SPEC), OLD.query_vectors(towers, SPEC), USERS)


def test_what_is_new_starts_as_unknown_and_what_is_gone_goes(
    last: tuple[Towers, Path], caplog: pytest.LogCaptureFixture
) -> None:
    towers, folder = last
    # So many brands that a cold start would make their vectors wider.
    brands = [*(b"new %d" % n for n in range(40)), b"y", b"x"]
    grown = Shop([b"new", b"z", *ITEMS[1:]][::-1], [b"u90", *USERS[1:]], brands)
    with caplog.at_level(logging.INFO, "twotower.progress"):
        again = carried(grown, folder)
    [line] = caplog.messages
    assert "user_ids 23 rows carried, 1 new, 1 gone" in line
    assert "item_brand 2 rows carried, 40 new, 0 gone" in line
    # Nobody bought "new" and "z" yet: they have no rows.
    assert "item_ids 5 rows carried, 0 new, 1 gone" in line
    assert_same(grown.item_vectors(again), OLD.item_vectors(towers), ITEMS[1:])
    unknown = np.asarray(towers.candidate({"item_id": tf.constant([6]), "item_brand": tf.constant([0])}))[0, :5]
    np.testing.assert_allclose(grown.item_vectors(again)[b"z"], unknown, rtol=1e-5, atol=1e-6)
    user_rows = again.query.user_ids(tf.constant([0, 24]))  # type: ignore[attr-defined]
    np.testing.assert_array_equal(user_rows[0], user_rows[1])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"embedding_dim": 8}, "cold start: embedding_dim was 6, is 8"),
        ({"tower_units": [9]}, "cold start: tower_units was [8], is [9]"),
        ({"history_encoder": "attention"}, "cold start: history_encoder was mean, is attention"),
        ({"graph_factors": 0}, "cold start: graph_factors was True, is False"),
    ],
)
def test_other_towers_start_cold_and_say_why(
    last: tuple[Towers, Path], caplog: pytest.LogCaptureFixture, changed: dict[str, Any], said: str
) -> None:
    encodings = OLD.catalogue.encodings
    with caplog.at_level(logging.INFO, "twotower.progress"):
        assert WarmStart(OLD.vocabularies, last[1]).base(two_tower(shop_spec(**changed)), encodings) is None
        assert WarmStart(OLD.vocabularies, last[1]).base(two_tower(SPEC), encodings[:0]) is None
        assert WarmStart(OLD.vocabularies, last[1] / "other").base(two_tower(SPEC), encodings) is None
    assert caplog.messages == [
        said,
        "cold start: feature item_brand was ['index', None], is None",
        "cold start: the last blessed model is no two towers that a warm start may follow",
    ]


def test_a_cold_start_trains_all_its_epochs(last: tuple[Towers, Path], tmp_path: Path) -> None:
    spec = shop_spec(tower_units=[9], events_per_epoch=64, epochs=2, warm_epochs=1)
    fit(OLD.data(spec, tmp_path, last[1]))
    assert len(json.loads((tmp_path / "curve.json").read_text())) == 2


def test_a_first_run_starts_cold(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "twotower.progress"):
        assert WarmStart({}, None).base(two_tower(SPEC), []) is None
    assert caplog.messages == ["cold start: no earlier model is blessed yet"]


def test_training_goes_on_from_where_the_last_one_ended(last: tuple[Towers, Path], tmp_path: Path) -> None:
    towers, folder = last
    spec = shop_spec(warm_epochs=1, epochs=7, events_per_epoch=64, learning_rate=1e-6)
    again = fit(OLD.data(spec, tmp_path, folder))
    for name, vector in OLD.item_vectors(again).items():
        np.testing.assert_allclose(vector, OLD.item_vectors(towers)[name], atol=1e-3)
    assert len(json.loads((tmp_path / "curve.json").read_text())) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"id_table": "hashed"}, "share rows; expected 'full'"),
        ({"validation_days": 3}, "has learnt from these validation_days"),
        ({"warm_start": False, "warm_epochs": 1}, "expected 'warm_start: true' beside it"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shop_spec(**settings)
