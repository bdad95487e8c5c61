"""Ingest on a real Beam pipeline: counts, splits, histories that never see the future, and clean failures."""

import csv
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from tfx.types import standard_artifacts

from twotower.features.errors import InputError
from twotower.features.spec import Spec
from twotower.pipeline import artifacts, ingest, ingest_step

SPLIT = 1_512_086_400  # 2017-12-01
Row = dict[str, Any]


@dataclass
class Shop:
    """A folder of tiny CSV tables and what ingest makes of them."""

    folder: Path

    def write(self, name: str, rows: Sequence[Row]) -> str:
        file = self.folder / name
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return str(file)

    def spec(self, **sections: Any) -> Spec:
        interactions = {
            "path": str(self.folder / "events*.csv"),
            "user": "user",
            "item": "item",
            "time": "time",
            "quantity": "quantity",
            "drop": [{"column": "quantity", "below": 1, "reason": "returns"}],
        }
        interactions |= sections.pop("interactions", {})
        raw = {"name": "shop", "split": {"test_from": "2017-12-01"}, "interactions": interactions}
        return Spec.model_validate(raw | sections)

    def users(self, **extra: Any) -> dict[str, Any]:
        return {"path": str(self.folder / "users*.csv"), "id": "id", "features": {"town": {"kind": "category"}}} | extra

    def items(self, **extra: Any) -> dict[str, Any]:
        features = {"price": {"kind": "number"}, "title": {"kind": "text"}}
        return {
            "path": str(self.folder / "items*.csv"),
            "id": "id",
            "describe": ["title"],
            "features": features,
        } | extra

    def run(self, spec: Spec, where: str = "out") -> "Result":
        out = self.folder / where
        out.mkdir()
        counts = ingest.run(spec, out / "examples", out / "lookup", pipeline())
        return Result(counts, out)


def pipeline(mode: str = "in_memory") -> beam.Pipeline:
    return beam.Pipeline(options=PipelineOptions([f"--direct_running_mode={mode}", "--direct_num_workers=1"]))


@dataclass
class Result:
    counts: dict[str, int]
    out: Path

    def split(self, name: str) -> dict[bytes, dict[str, list[Any]]]:
        """The examples of a split by the id they are about."""
        found = {}
        files = sorted((self.out / "examples" / f"Split-{name}").iterdir())
        assert all(file.name.endswith(".tfrecord.gz") for file in files)
        for record in tf.data.TFRecordDataset([str(file) for file in files], "GZIP").as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            lists = {key: getattr(value, value.WhichOneof("kind")) for key, value in features.items()}
            example = {key: list(value.value) for key, value in lists.items()}
            (key,) = example["item_id" if name == "items" else "user_id"]
            assert key not in found
            found[key] = example
        return found

    def lookup(self, name: str) -> list[dict[str, Any]]:
        files = sorted((self.out / "lookup").glob(f"{name}*"))
        assert files
        rows = [row for file in files for row in pq.read_table(file).to_pylist()]
        return sorted(rows, key=lambda row: next(iter(row.values())))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def event(user: str, item: str, offset: int, quantity: float = 1, **more: str) -> Row:
    """A purchase ``offset`` seconds after the split."""
    return {"user": user, "item": item, "time": SPLIT + offset, "quantity": quantity, **more}


EVENTS = [
    event("u1", "a", -30, 2),
    event("u1", "b", -20),
    event("u1", "a", -20),
    event("u1", "c", 0),
    event("u1", "new", 7, 3),
    event("u2", "b", -1),
    event("u3", "a", 1),
    event("u3", "b", 2, 0),
    event("u4", "d", -9, -1),
]


def test_counts_splits_and_lookup(shop: Shop) -> None:
    shop.write("events.csv", EVENTS)
    shop.write("users.csv", [{"id": "u1", "town": "Ulm"}, {"id": "u3", "town": ""}, {"id": "u9", "town": "Bonn"}])
    shop.write(
        "items.csv",
        [{"id": "a", "price": "2.5", "title": "Tea"}, {"id": "never", "price": "", "title": ""}],
    )
    result = shop.run(shop.spec(users=shop.users(), items=shop.items()))
    assert result.counts == {
        "interactions: rows read": 9,
        "dropped: returns": 2,
        "dropped: beyond max_events_per_user": 0,
        "interactions: train": 4,
        "interactions: test": 3,
        "users: rows read": 3,
        "users: with purchases": 3,
        "users: with a row of their own": 2,
        "users: without a purchase": 1,
        "users: train": 2,
        "users: test": 2,
        "items: rows read": 2,
        "items: catalogue": 3,
        "items: bought in train": 2,
        "items: bought, without a row of their own": 1,
    }
    u1 = {
        "user_id": [b"u1"],
        "user_town": [b"Ulm"],
        "history_item_id": [b"a", b"a", b"b"],
        "history_time": [SPLIT - 30, SPLIT - 20, SPLIT - 20],
        "history_quantity": [2.0, 1.0, 1.0],
    }
    u2 = {
        "user_id": [b"u2"], "history_item_id": [b"b"], "history_time": [SPLIT - 1], "history_quantity": [1.0],
    }  # fmt: skip
    assert result.split("train") == {b"u1": u1, b"u2": u2}
    labels = {"label_item_id": [b"c", b"new"], "label_time": [SPLIT, SPLIT + 7], "label_quantity": [1.0, 3.0]}
    u3 = {"user_id": [b"u3"], "label_item_id": [b"a"], "label_time": [SPLIT + 1], "label_quantity": [1.0]}
    assert result.split("eval") == {b"u1": u1 | labels, b"u3": u3}
    # An item bought in train without a row is in the catalogue by its id; one first bought in the test is not.
    assert result.split("items") == {
        b"a": {"item_id": [b"a"], "item_price": [2.5], "item_title": [b"Tea"]},
        b"b": {"item_id": [b"b"]},
        b"never": {"item_id": [b"never"]},
    }
    assert result.lookup("items") == [
        {"item_id": "a", "description": "Tea"},
        {"item_id": "b", "description": ""},
        {"item_id": "never", "description": ""},
    ]
    assert result.lookup("histories") == [
        {
            "user_id": "u1",
            "features": '{"town": "Ulm"}',
            "item_ids": ["a", "a", "b", "c", "new"],
            "times": [SPLIT - 30, SPLIT - 20, SPLIT - 20, SPLIT, SPLIT + 7],
        },
        {"user_id": "u2", "features": "{}", "item_ids": ["b"], "times": [SPLIT - 1]},
        {"user_id": "u3", "features": "{}", "item_ids": ["a"], "times": [SPLIT + 1]},
    ]
    assert sorted(path.name for path in (result.out / "examples").iterdir()) == [
        "Split-eval", "Split-items", "Split-train",
    ]  # fmt: skip


def test_users_and_items_tables_are_optional(shop: Shop) -> None:
    shop.write("events.csv", EVENTS)
    result = shop.run(shop.spec())
    assert result.split("items") == {b"a": {"item_id": [b"a"]}, b"b": {"item_id": [b"b"]}}
    assert set(result.split("train")[b"u1"]) == {"user_id", "history_item_id", "history_time", "history_quantity"}
    assert result.counts["users: with a row of their own"] == 0
    assert result.counts["items: bought, without a row of their own"] == 2


def random_events() -> list[Row]:
    source = random.Random(3)
    rows = [
        event(
            f"u{source.randrange(5)}",
            f"i{source.randrange(6)}",
            source.randrange(-4, 4),
            source.choice([1, 2]),
            title=source.choice(["x", "y", ""]),
            price=source.choice(["1", "2.5", ""]),
            store=source.choice(["s1", "s2"]),
        )
        for _ in range(60)
    ]
    return [*rows, event("u0", "i0", -1, title="x", price="1", store="s1"), event("u0", "i0", 0)]


def derived(shop: Shop, **sections: Any) -> Spec:
    users = {"town": {"kind": "category", "column": "store"}}
    return shop.spec(
        **sections,
        users={"from": "interactions", "id": "user", "duplicates": "last", "features": users},
        items=shop.items(path=None, **{"from": "interactions", "id": "item", "duplicates": "last"}),
        context={"store": {"kind": "category"}, "hour": {"kind": "time", "part": "hour"}},
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What ingest makes of ``random_events`` in one file."""
    shop = Shop(tmp_path_factory.mktemp("whole"))
    shop.write("events.csv", random_events())
    return shop.run(derived(shop))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_future_changes_nothing_that_is_trained_on_or_shown_to_the_model(
    shop: Shop, whole: Result, seed: int
) -> None:
    source = random.Random(seed)
    changed = [
        row
        if row["time"] < SPLIT
        else event(f"u{source.randrange(9)}", f"i{source.randrange(99)}", source.randrange(99), 7, title="z", price="9")
        for row in random_events()
    ]
    shop.write("events.csv", [*changed, *(event(f"u{n}", "i9", 5, title="z") for n in range(9))])
    after = shop.run(derived(shop))
    assert after.split("train") == whole.split("train")
    assert after.split("items") == whole.split("items")
    assert after.lookup("items") == whole.lookup("items")
    later = after.split("eval")
    assert len(later) == 9
    assert len(whole.split("eval")) >= 4
    for name, example in whole.split("eval").items():
        for key in (later[name].keys() | example.keys()) - {"label_item_id", "label_time", "label_quantity"}:
            assert later[name][key] == example[key], (name, key)
        assert later[name]["label_item_id"] != example["label_item_id"]
    for example in [*later.values(), *after.split("train").values()]:
        assert all(time < SPLIT for time in example.get("history_time", []))
        assert all(time >= SPLIT for time in example.get("label_time", []))


def test_order_of_rows_and_files_changes_nothing(shop: Shop, whole: Result) -> None:
    rows = random_events()
    random.Random(4).shuffle(rows)
    shop.write("events.csv", rows[:20])
    shop.write("events_0.csv", rows[20:50])
    shop.write("events_1.csv", rows[50:])
    many = shop.run(derived(shop))
    assert many.counts == whole.counts
    for split in ingest.SPLITS:
        assert many.split(split) == whole.split(split), split
    for name in ("histories", "items"):
        assert many.lookup(name) == whole.lookup(name), name


def test_table_from_interactions_knows_only_rows_before_the_split(shop: Shop) -> None:
    rows = [
        event("u1", "a", -9, title="old", price="1", store="s1"),
        event("u1", "a", -5, title="new", price="2", store="s2"),
        event("u1", "a", -3, 0, title="returned", price="7", store="s7"),
        event("u1", "a", 0, title="future", price="9", store="s9"),
        event("u2", "b", 0, title="future", price="9", store="s9"),
    ]
    shop.write("events.csv", rows)
    result = shop.run(derived(shop))
    assert result.split("items") == {b"a": {"item_id": [b"a"], "item_price": [2.0], "item_title": [b"new"]}}
    assert result.split("train")[b"u1"]["user_town"] == [b"s2"]
    assert "user_town" not in result.split("eval")[b"u2"]
    assert result.lookup("items") == [{"item_id": "a", "description": "new"}]
    assert result.counts["items: bought, without a row of their own"] == 0


def test_latest_events_their_context_and_the_end_of_the_test_period(shop: Shop) -> None:
    rows = [event("u1", f"i{n}", n - 4, store=f"s{n}" if n != 2 else "") for n in range(7)]
    random.Random(1).shuffle(rows)
    late = [event("u1", "late", 86_400, store="s1"), event("u1", "last", 86_399, store="s1")]
    shop.write("events.csv", [*rows, *late, event("u2", "i1", -1, store="s1")])
    result = shop.run(
        shop.spec(
            interactions={"max_events_per_user": 6},
            split={"test_from": "2017-12-01", "test_days": 1},
            context={"store": {"kind": "category"}, "hour": {"kind": "time", "part": "hour"}},
        )
    )
    seen = {
        "user_id": [b"u1"],
        "history_item_id": [b"i2", b"i3"],
        "history_time": [SPLIT - 2, SPLIT - 1],
        "history_quantity": [1.0, 1.0],
        "context_store": [b"", b"s3"],
    }
    assert result.split("train")[b"u1"] == seen
    found = result.split("eval")[b"u1"]
    assert found["label_item_id"] == [b"i4", b"i5", b"i6", b"last"]
    assert {key: found[key] for key in seen} == seen
    assert result.counts["dropped: beyond max_events_per_user"] == 2
    assert result.counts["dropped: after the test period"] == 1
    assert set(result.split("items")) == {b"i1", b"i2", b"i3"}
    assert result.lookup("histories")[0]["item_ids"] == ["i2", "i3", "i4", "i5", "i6", "last"]


def test_last_duplicate_wins_where_the_spec_says_so_and_dropped_rows_are_counted(shop: Shop) -> None:
    shop.write("events.csv", EVENTS)
    shop.write("users_1.csv", [{"id": "u1", "town": "Ulm"}, {"id": "u2", "town": "Rom"}])
    shop.write("users_2.csv", [{"id": "u1", "town": "Bonn"}, {"id": "u1", "town": "Kiel"}, {"id": "", "town": "Rom"}])
    rules = [{"column": "id", "missing": True, "reason": "no id"}]
    result = shop.run(shop.spec(users=shop.users(duplicates="last", drop=rules)))
    assert result.split("train")[b"u1"]["user_town"] == [b"Kiel"]
    assert result.split("train")[b"u2"]["user_town"] == [b"Rom"]
    assert result.counts["users: rows read"] == 5
    assert result.counts["dropped users: no id"] == 1


def fails(shop: Shop, spec: Spec, mode: str = "in_memory") -> str:
    """The message of a run that fails; nothing of it may stay behind."""
    examples, lookup = shop.folder / "examples", shop.folder / "lookup"
    for folder in (examples, lookup):
        folder.mkdir()
    (examples / "kept").touch()
    with pytest.raises(InputError) as caught:
        ingest.run(spec, examples, lookup, pipeline(mode))
    assert type(caught.value) is InputError
    assert [path.name for path in examples.iterdir()] == ["kept"]
    assert list(lookup.iterdir()) == []
    message = str(caught.value)
    assert "\n" not in message
    assert "while running" not in message
    return message


def test_duplicate_ids_name_both_rows(shop: Shop) -> None:
    shop.write("events.csv", EVENTS)
    file = shop.write("users.csv", [{"id": f"u{n % 3}", "town": "Ulm"} for n in range(4)])
    assert fails(shop, shop.spec(users=shop.users())) == (
        f"column 'id': found the id 'u0' in row 1 of {file} and row 4 of {file}, expected each id once "
        "(or 'duplicates: last' in the spec)"
    )


def test_fault_in_a_row_reaches_the_caller_as_one_line(shop: Shop) -> None:
    file = shop.write("events.csv", [*EVENTS, event("", "a", 0)])
    assert fails(shop, shop.spec()) == (
        f"{file}: row 10, column 'user': found None, expected an id that is not empty "
        "(a drop rule can leave such rows out)"
    )


def test_fault_in_another_worker_reaches_the_caller_as_one_line(shop: Shop) -> None:
    # Behind gRPC Beam's own error is text: the worker's traceback, the error's line, and the step's name.
    row = event("u1", "a", 0) | {"quantity": "[while]"}
    file = shop.write("events.csv", [*EVENTS, row])
    assert fails(shop, shop.spec(), "multi_threading") == (
        f"{file}: row 10, column 'quantity': found '[while]', expected a number"
    )


def test_missing_column_and_missing_file(shop: Shop) -> None:
    file = shop.write("events.csv", EVENTS)
    message = fails(shop, shop.spec(interactions={"user": "usr"}))
    assert message == f"{file}: no column 'usr': did you mean 'user'?"
    with pytest.raises(InputError, match=r"users\*\.csv: no such file; expected a CSV, Parquet or TFRecord file"):
        shop.run(shop.spec(users=shop.users()))


def test_nothing_left_to_train_on(shop: Shop) -> None:
    shop.write("events.csv", [event("u1", "a", 0), event("u1", "a", -1, 0)])
    message = fails(shop, shop.spec())
    assert message == (
        f"{shop.folder}/events*.csv: no interaction is left before 2017-12-01T00:00:00 to train on "
        "(2 rows read, dropped: 1 returns)"
    )


def test_nothing_left_to_test_on(shop: Shop) -> None:
    shop.write("events.csv", [event("u1", "a", -1)])
    message = fails(shop, shop.spec())
    assert message.endswith(
        "no interaction is left from 2017-12-01T00:00:00 on to test on (1 rows read, dropped: none)"
    )


LAST_OUT = {"kind": "leave_last_out"}


def test_leave_last_out_tests_each_users_last_basket(shop: Shop) -> None:
    rows = [
        event("u1", "a", -30, 2),
        event("u1", "b", -20),
        event("u1", "c", -5),
        event("u1", "a", -5, 3),
        event("u1", "d", 9, -1),  # a return is no event, and so not u1's last moment
        event("u2", "b", 40),
        event("u2", "e", 40),
        event("u3", "f", 3),
        event("u3", "a", 4),
    ]
    shop.write("events.csv", rows[::-1])
    result = shop.run(shop.spec(split=LAST_OUT))
    u1 = {
        "user_id": [b"u1"],
        "history_item_id": [b"a", b"b"],
        "history_time": [SPLIT - 30, SPLIT - 20],
        "history_quantity": [2.0, 1.0],
    }
    u2 = {
        "user_id": [b"u2"],
        "history_item_id": [b"b", b"e"],
        "history_time": [SPLIT + 40] * 2,
        "history_quantity": [1.0, 1.0],
    }
    u3 = {
        "user_id": [b"u3"], "history_item_id": [b"f"], "history_time": [SPLIT + 3], "history_quantity": [1.0],
    }  # fmt: skip
    # u2 has one moment alone, and so nothing that could be left out.
    assert result.split("train") == {b"u1": u1, b"u2": u2, b"u3": u3}
    last = {"label_item_id": [b"a", b"c"], "label_time": [SPLIT - 5] * 2, "label_quantity": [3.0, 1.0]}
    other = {"label_item_id": [b"a"], "label_time": [SPLIT + 4], "label_quantity": [1.0]}
    assert result.split("eval") == {b"u1": u1 | last, b"u3": u3 | other}
    # c is bought in the test alone.
    assert set(result.split("items")) == {b"a", b"b", b"e", b"f"}
    assert result.lookup("histories")[0]["item_ids"] == ["a", "b", "a", "c"]
    found = {label: result.counts[label] for label in ("interactions: train", "interactions: test", "users: test")}
    assert found == {"interactions: train": 5, "interactions: test": 3, "users: test": 2}


def test_tables_from_interactions_do_not_know_a_basket_that_is_left_out(shop: Shop) -> None:
    rows = [
        event("u1", "a", -9, title="old", price="1", store="s1"),
        event("u1", "a", 8, title="left out", price="9", store="s9"),
        event("u2", "a", -7, title="newer", price="2", store="s2"),
        event("u2", "b", -6, title="left out", price="9", store="s9"),
        event("u3", "c", 7, title="one moment", price="3", store="s3"),
    ]
    # In another chunk than the basket that it is known by.
    shop.write("events_1.csv", rows[:2])
    shop.write("events_2.csv", rows[2:])
    result = shop.run(derived(shop, split=LAST_OUT))
    assert result.split("items") == {
        b"a": {"item_id": [b"a"], "item_price": [2.0], "item_title": [b"newer"]},
        b"c": {"item_id": [b"c"], "item_price": [3.0], "item_title": [b"one moment"]},
    }
    towns = {name: example["user_town"] for name, example in result.split("train").items()}
    assert towns == {b"u1": [b"s1"], b"u2": [b"s2"], b"u3": [b"s3"]}
    assert result.split("eval")[b"u1"]["user_town"] == [b"s1"]


def test_leave_last_out_needs_a_user_with_two_moments(shop: Shop) -> None:
    shop.write("events.csv", [event("u1", "a", 0), event("u1", "b", 0), event("u1", "a", 1, 0)])
    assert fails(shop, shop.spec(split=LAST_OUT)) == (
        f"{shop.folder}/events*.csv: no interaction is left at a user's last moment of several to test on "
        "(3 rows read, dropped: 1 returns)"
    )


def given(shop: Shop, rows: Sequence[Row]) -> dict[str, str]:
    return {"kind": "given", "test": shop.write("test.csv", rows)}


def test_a_given_test_is_told_apart_by_its_file(shop: Shop) -> None:
    shop.write("events.csv", [event("u1", "a", -3, 2), event("u1", "b", 5), event("u2", "b", 90)])
    test = [event("u1", "c", 9), event("u1", "a", 6, 3), event("u1", "a", 7, 0), event("new", "b", -50)]
    spec = shop.spec(split=given(shop, test))
    result = shop.run(spec)
    u1 = {
        "user_id": [b"u1"],
        "history_item_id": [b"a", b"b"],
        "history_time": [SPLIT - 3, SPLIT + 5],
        "history_quantity": [2.0, 1.0],
    }
    assert result.split("train")[b"u1"] == u1
    assert set(result.split("train")) == {b"u1", b"u2"}
    labels = {"label_item_id": [b"a", b"c"], "label_time": [SPLIT + 6, SPLIT + 9], "label_quantity": [3.0, 1.0]}
    # A user's own test comes after what is known of them; that others' knowledge is younger is the files' choice.
    new = {"user_id": [b"new"], "label_item_id": [b"b"], "label_time": [SPLIT - 50], "label_quantity": [1.0]}
    assert result.split("eval") == {b"u1": u1 | labels, b"new": new}
    assert set(result.split("items")) == {b"a", b"b"}
    assert result.counts["interactions: rows read"] == 7
    assert result.counts["dropped: returns"] == 1
    assert list(json.loads(ingest.fingerprint(spec))) == [
        str(shop.folder / "events.csv"),
        str(shop.folder / "test.csv"),
    ]


def test_tables_from_interactions_do_not_know_a_given_test(shop: Shop) -> None:
    shop.write("events.csv", [event("u1", "a", -9, title="old", price="1", store="s1")])
    split = given(shop, [event("u1", "a", 8, title="test", price="9", store="s9")])
    result = shop.run(derived(shop, split=split))
    assert result.split("items") == {b"a": {"item_id": [b"a"], "item_price": [1.0], "item_title": [b"old"]}}
    assert result.split("eval")[b"u1"]["user_town"] == [b"s1"]


def test_a_given_test_that_leaks_is_refused(shop: Shop) -> None:
    shop.write("events.csv", [event("u1", "a", 0), event("u1", "b", 3), event("u2", "a", 9)])
    path = shop.folder / "test.csv"
    same = given(shop, [event("u2", "b", 99), event("u1", "c", 2), event("u1", "b", 3)])
    assert fails(shop, shop.spec(split=same)) == (
        f"{path}: user 'u1', item 'b' at 2017-12-01T00:00:03: stands in {shop.folder}/events*.csv as well, "
        "expected no event in both"
    )


def test_a_given_test_that_is_not_after_its_users_training_is_refused(shop: Shop) -> None:
    shop.write("events.csv", [event("u1", "a", 0), event("u1", "b", 3), event("u2", "a", 9)])
    split = given(shop, [event("u2", "b", 99), event("u1", "c", 3)])
    assert fails(shop, shop.spec(split=split)) == (
        f"{split['test']}: user 'u1', item 'c' at 2017-12-01T00:00:03: the user's last event in "
        f"{shop.folder}/events*.csv is at 2017-12-01T00:00:03, expected the test strictly after it"
    )


def test_a_given_test_with_nothing_in_it(shop: Shop) -> None:
    shop.write("events.csv", [event("u1", "a", 0)])
    split = given(shop, [event("u1", "a", 9, 0)])
    assert fails(shop, shop.spec(split=split)) == (
        f"{split['test']}: no interaction is left to test on (2 rows read, dropped: 1 returns)"
    )


def test_an_error_that_is_no_input_error_stays_what_it_is(shop: Shop, tmp_path: Path) -> None:
    shop.write("events.csv", EVENTS)
    (tmp_path / "blocked").touch()
    with pytest.raises(RuntimeError, match="Not a directory"):
        ingest.run(shop.spec(), tmp_path / "blocked", tmp_path / "lookup", pipeline())


def test_fingerprint_follows_the_files(shop: Shop) -> None:
    shop.write("events.csv", EVENTS)
    spec = shop.spec()
    first = ingest.fingerprint(spec)
    assert list(json.loads(first)) == [str(shop.folder / "events.csv")]
    assert ingest.fingerprint(spec) == first
    shop.write("events_2.csv", EVENTS)
    second = ingest.fingerprint(spec)
    assert second != first
    shop.write("events_2.csv", EVENTS[:2])
    assert ingest.fingerprint(spec) != second


def test_component_fills_its_artifacts(shop: Shop) -> None:
    shop.write("events.csv", EVENTS)
    found: dict[str, Any] = {
        "examples": standard_artifacts.Examples(), "lookup": artifacts.Lookup(), "summary": artifacts.Summary(),
    }  # fmt: skip
    for name, artifact in found.items():
        artifact.uri = str(shop.folder / name)
        Path(artifact.uri).mkdir()
    ingest_step.Ingest.test_call(spec=shop.spec().model_dump_json(), fingerprint="", beam_pipeline=pipeline(), **found)
    assert found["examples"].split_names == '["train", "eval", "items"]'
    assert found["examples"].get_string_custom_property("payload_format") == "FORMAT_TF_EXAMPLE"
    counts = json.loads((shop.folder / "summary" / "counts.json").read_text())
    assert counts["interactions: train"] == 4


def test_promotions_join_the_items_of_the_catalogue(shop: Shop) -> None:
    shop.write("events.csv", EVENTS)
    shop.write("items.csv", [{"id": "a", "price": "2.5", "title": "Tea"}, {"id": "never", "price": "", "title": ""}])
    rows = [("a", "2018-01-01", 2), ("a", "2017-11-01", 1), ("b", "2017-12-01", 3), ("gone", "2017-12-01", 9)]
    shop.write("promotions1.csv", [{"id": i, "from": start, "until": "2099-01-01", "size": n} for i, start, n in rows])
    table = {"item": "id", "from": "from", "until": "until", "strengths": {"size": "size"}}
    promotions = {"path": str(shop.folder / "promotions*.csv"), **table}
    result = shop.run(shop.spec(items=shop.items(), promotions=promotions))
    assert result.counts["promotions: rows read"] == 4
    assert result.counts["promotions: items that are not in the catalogue"] == 1
    items = result.split("items")
    assert sorted(items) == [b"a", b"b", b"never"]
    assert items[b"a"]["promotion_size"] == [1.0, 2.0]
    assert items[b"a"]["promotion_start"] == [1_509_494_400, 1_514_764_800]
    assert items[b"b"]["promotion_end"] == [4_070_908_800]
    assert "promotion_size" not in items[b"never"]


def test_a_bad_promotion_is_named_and_nothing_stays(shop: Shop) -> None:
    shop.write("events.csv", EVENTS)
    shop.write("promotions.csv", [{"id": "a", "from": "2018-01-01", "until": "2017-01-01"}])
    file = str(shop.folder / "promotions.csv")
    spec = shop.spec(promotions={"path": file, "item": "id", "from": "from", "until": "until"})
    with pytest.raises(InputError, match=r"promotions\.csv: row 1, column 'until': found '2017-01-01', expected"):
        shop.run(spec)
    assert not list((shop.folder / "out").glob("*/*"))
