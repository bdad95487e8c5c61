"""Cleaned rows to events and raw examples, on tables small enough to read."""

import datetime as dt
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from twotower.features import preprocessing, records
from twotower.features.columns import Chunk
from twotower.features.errors import InputError
from twotower.features.records import Events
from twotower.features.spec import EntityTable, Spec, TimeSplit

FEATURES = {
    "brand": {"kind": "category"},
    "price": {"kind": "number"},
    "title": {"kind": "text", "column": "name"},
    "image": {"kind": "vector", "size": 2},
    "tags": {"kind": "sequence", "max_length": 2},
    "listed": {"kind": "time", "part": "month"},
}
RAW: dict[str, Any] = {
    "name": "shop",
    "interactions": {
        "path": "events.csv",
        "user": "user",
        "item": "item",
        "time": "time",
        "quantity": "quantity",
        "drop": [
            {"column": "quantity", "below": 1, "reason": "returns"},
            {"column": "user", "missing": True, "reason": "guests"},
        ],
    },
    "items": {"path": "items.csv", "id": "id", "describe": ["name", "brand"], "features": FEATURES},
    "context": {
        "store": {"kind": "category", "column": "shop"},
        "coupon": {"kind": "category"},
        "hour": {"kind": "time", "part": "hour"},
    },
    "split": {"test_from": "2017-12-01", "test_days": 10},
}
SPEC = Spec.model_validate(RAW)
DAY = 86_400
assert isinstance(SPEC.split, TimeSplit)
SPLIT = SPEC.split.start


def chunk(**columns: list[Any]) -> Chunk:
    table = pa.table(columns)
    return Chunk(Path("shop.csv"), np.arange(1, len(table) + 1), table)


def purchases() -> dict[str, list[Any]]:
    return {
        "user": ["u2", "u1", "u2", None, "u1", "u1", "u2"],
        "item": ["a", "b", "c", "d", "e", "f", "\u4e2d"],
        "time": [SPLIT - 5, SPLIT - 4, SPLIT - 3, SPLIT, SPLIT, SPLIT + 10 * DAY, SPLIT + 10 * DAY - 1],
        "quantity": [1, 2, 3, 4, 0, 1, 1.5],
        "shop": ["s1", "s2", None, "s1", "s1", "s1", "s3"],
        "coupon": ["", "x", "y", "y", "y", "y", "z"],
    }


def test_columns_that_are_read() -> None:
    wanted = records.interaction_columns(SPEC.interactions, SPEC.context)
    assert wanted == ["user", "item", "time", "quantity", "user", "quantity", "shop", "coupon"]
    assert SPEC.items is not None
    assert records.entity_columns(SPEC.items) == [
        "id", "name", "brand", "brand", "price", "name", "image", "tags", "listed",
    ]  # fmt: skip


def test_events_are_cleaned_and_grouped_by_user() -> None:
    grouped, dropped = records.events_by_user(chunk(**purchases()), SPEC)
    assert dropped == {"returns": 1, "guests": 1, "after the test period": 1}
    assert list(grouped) == [b"u1", b"u2"]
    assert grouped[b"u1"].items.tolist() == [b"b"]
    found = grouped[b"u2"]
    assert found.items.tolist() == [b"a", b"c", "\u4e2d".encode()]
    assert found.times.tolist() == [SPLIT - 5, SPLIT - 3, SPLIT + 10 * DAY - 1]
    assert found.quantities.tolist() == [1, 3, 1.5]
    assert {name: values.tolist() for name, values in found.context.items()} == {
        "store": [b"s1", b"", b"s3"],
        "coupon": [b"", b"y", b"z"],
    }


def test_without_a_quantity_every_event_counts_once() -> None:
    raw = RAW | {"interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"}, "context": {}}
    grouped, dropped = records.events_by_user(chunk(user=["u"], item=["i"], time=[0]), Spec.model_validate(raw))
    assert grouped[b"u"].quantities.tolist() == [1]
    assert grouped[b"u"].context == {}
    assert dropped == {"after the test period": 0}


def test_chunk_whose_rows_are_all_dropped() -> None:
    rows = {name: values[4:5] for name, values in purchases().items()}
    assert records.events_by_user(chunk(**rows), SPEC) == ({}, {"returns": 1, "guests": 0})
    late = {name: values[5:6] for name, values in purchases().items()}
    assert records.events_by_user(chunk(**late), SPEC)[0] == {}


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("item", ["a", ""], "row 2, column 'item': found '', expected an id that is not empty"),
        ("user", ["a", "b\n"], "row 2, column 'user': found 'b\\n', expected an id without a line break"),
        ("time", [0, None], "row 2, column 'time': found None, expected a time like"),
        ("quantity", [1, None], "row 2, column 'quantity': found None, expected a number (a drop rule can leave such"),
        ("quantity", ["1", "two"], "row 2, column 'quantity': found 'two', expected a number"),
        ("shop", [["a"], ["a", "b"]], "row 2, column 'shop': found ['a', 'b'], expected one value a row, not a list"),
    ],
)
def test_fault_in_an_event_names_its_row(column: str, values: list[Any], message: str) -> None:
    rows = {name: cells[:2] for name, cells in purchases().items()} | {column: values}
    with pytest.raises(InputError) as caught:
        records.events_by_user(chunk(**rows), SPEC)
    assert f"shop.csv: {message}" in str(caught.value)


def test_fault_after_dropped_rows_names_the_row_of_the_file() -> None:
    rows: dict[str, list[Any]] = {name: cells[:3] for name, cells in purchases().items()}
    rows["quantity"], rows["item"] = [0, 1, 1], ["a", "b", ""]
    with pytest.raises(InputError, match="row 3, column 'item'"):
        records.events_by_user(chunk(**rows), SPEC)


event = st.tuples(
    st.sampled_from([b"a", b"b", "\u4e2d".encode()]),
    st.integers(0, 3),
    st.sampled_from([1.0, 2.0]),
    st.sampled_from([b"", b"s1"]),
    st.sampled_from([b"x", b"y"]),
)


def events(rows: list[tuple[bytes, int, float, bytes, bytes]]) -> Events:
    items, times, quantities, stores, coupons = ([row[i] for row in rows] for i in range(5))
    return Events(
        np.array(items, dtype=np.bytes_),
        np.array(times, dtype=np.int64),
        np.array(quantities, dtype=np.float32),
        {"store": np.array(stores, dtype=np.bytes_), "coupon": np.array(coupons, dtype=np.bytes_)},
    )


@given(st.data(), st.lists(event, min_size=1, max_size=12))
def test_merged_events_do_not_depend_on_the_order_of_arrival(
    data: st.DataObject, rows: list[tuple[bytes, int, float, bytes, bytes]]
) -> None:
    shuffled = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    whole, parts = Events.merged([events(rows)]), Events.merged([events(shuffled[:cut]), events(shuffled[cut:])])
    first, second = (records.timeline_record(b"u", {}, merged, None) for merged in (whole, parts))
    assert first == second
    assert first["history_time"] == sorted(row[1] for row in rows)
    merged_rows = zip(
        first["history_item_id"],
        first["history_time"],
        first["history_quantity"],
        first["context_store"],
        first["context_coupon"],
        strict=True,
    )
    assert sorted(merged_rows) == sorted(rows)


@given(st.lists(event, max_size=12), st.integers(0, 12))
def test_events_come_out_of_a_pickle_as_they_were(
    rows: list[tuple[bytes, int, float, bytes, bytes]], first: int
) -> None:
    some = events(rows).take(slice(first, None))
    found = pickle.loads(pickle.dumps(some))
    for name in ("items", "times", "quantities"):
        assert getattr(found, name).dtype == getattr(some, name).dtype
        np.testing.assert_array_equal(getattr(found, name), getattr(some, name))
    assert set(found.context) == set(some.context)
    for name, values in some.context.items():
        np.testing.assert_array_equal(found.context[name], values)


def items_chunk(**changed: list[Any]) -> Chunk:
    columns: dict[str, list[Any]] = {
        "id": ["i1", "i2"],
        "brand": ["b", None],
        "price": [2.5, None],
        "name": ["Red Tea", ""],
        "image": [[1, 0], None],
        "tags": [["x", "", "y", "z"], []],
        "listed": [dt.datetime(2017, 1, 1), dt.datetime(1970, 1, 2)],
    }
    return chunk(**{**columns, **changed})


def table(**changed: Any) -> EntityTable:
    return EntityTable.model_validate(RAW["items"] | changed)


def test_rows_of_a_table_are_raw_examples_without_the_missing_values() -> None:
    assert records.entity_rows(items_chunk(), "item", table()) == [
        (
            b"i1",
            {
                "item_brand": [b"b"],
                "item_price": [2.5],
                "item_title": [b"Red Tea"],
                "item_image": [1.0, 0.0],
                "item_tags": [b"x", b"y"],
                "item_listed": [int(dt.datetime(2017, 1, 1, tzinfo=dt.UTC).timestamp())],
            },
            "Red Tea, b",
        ),
        (b"i2", {"item_listed": [DAY]}, ""),
    ]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("id", ["i1", None], "row 2, column 'id': found None, expected an id"),
        ("brand", [["b"], ["b", "c"]], "row 2, column 'brand': found ['b', 'c'], expected one value a row, not a list"),
        ("price", ["1", "cheap"], "row 2, column 'price': found 'cheap', expected a number"),
        ("image", [[1.0, 2.0], [1.0]], "row 2, column 'image': found [1.0], expected a list of 2 finite numbers"),
        ("tags", ["x|y", "z"], "column 'tags': found string, expected lists of labels, or the key 'separator'"),
        ("listed", ["2017-01-01", "new"], "row 2, column 'listed': found 'new', expected a time like"),
    ],
)
def test_fault_in_a_table_names_its_row(column: str, values: list[Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        records.entity_rows(items_chunk(**{column: values}), "item", table())
    assert f"shop.csv: {message}" in str(caught.value)


def test_every_raw_value_has_the_type_that_preprocessing_reads() -> None:
    types = preprocessing.raw_feature_types(SPEC)
    (_, features, _), _ = records.entity_rows(items_chunk(), "item", table())
    history = Events.merged([records.events_by_user(chunk(**purchases()), SPEC)[0][b"u2"]])
    record = {"item_id": [b"i1"], **features, **records.timeline_record(b"u2", {}, history, history)}
    assert set(record) == set(types)
    parsed = tf.io.parse_single_example(
        records.serialize(record), {name: tf.io.VarLenFeature(kind) for name, kind in types.items()}
    )
    for name, values in record.items():
        assert parsed[name].values.numpy().tolist() == list(values), name


def test_what_is_missing_is_no_feature_of_the_example() -> None:
    record = records.timeline_record(b"u", {}, events([]), None)
    example = tf.train.Example.FromString(records.serialize(record))
    assert list(example.features.feature) == ["user_id"]


def test_newest_row_of_each_id() -> None:
    rows = chunk(id=["a", "b", "a", "c", "a"], name=["old", "b", "new", "c", "older"], brand=["x"] * 5)
    derived = table(features={"title": {"kind": "text", "column": "name"}}, describe=["name"])
    found = records.newest_rows(rows, np.array([5, -7, 9, 0, 1]), "item", derived)
    assert found == {
        b"a": (9, {"item_title": [b"new"]}, "new"),
        b"b": (-7, {"item_title": [b"b"]}, "b"),
        b"c": (0, {"item_title": [b"c"]}, "c"),
    }


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.sampled_from(["", "x", "y"]), st.integers(1, 3)),
        min_size=1,
    ).flatmap(lambda rows: st.tuples(st.just(rows), st.permutations(rows)))
)
def test_newest_row_does_not_depend_on_the_order_of_rows(
    both: tuple[list[tuple[str, int, str, int]], list[tuple[str, int, str, int]]],
) -> None:
    features = {"title": {"kind": "text", "column": "name"}, "price": {"kind": "number"}}
    derived = table(features=features, describe=["name"])
    found = []
    for rows in both:
        names, times, texts, prices = (list(values) for values in zip(*rows, strict=True))
        part = chunk(id=names, name=texts, price=prices)
        found.append(records.newest_rows(part, np.array(times, dtype=np.int64), "item", derived))
    assert found[0] == found[1]
    for name, (time, _, _) in found[0].items():
        assert time == max(row[1] for row in both[0] if row[0].encode() == name)


def test_newest_rows_of_no_rows() -> None:
    none = Chunk(Path("shop.csv"), np.arange(0), pa.table({"id": pa.array([], pa.string())}))
    assert records.newest_rows(none, np.array([], dtype=np.int64), "item", table(features={}, describe=[])) == {}
