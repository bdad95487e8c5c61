"""Queries as tensors: what is laid out how, what is filled in, and what is refused before anything is sent."""

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_arrays import array, decode

from twotower_client import (
    FeatureTypeError,
    HistoryEvent,
    InvalidRequestError,
    Query,
    Recommender,
    UnknownFeatureError,
)
from twotower_client import wire_pb2 as wire
from twotower_client.channel import target_uri
from twotower_client.features import feature_columns
from twotower_client.inputs import complete, query_columns, unix_seconds
from twotower_client.metadata import InputSpec

SPECS = {
    "user_id": InputSpec(wire.DT_STRING, (-1,)),
    "user_age": InputSpec(wire.DT_STRING, (-1,)),
    "user_visits": InputSpec(wire.DT_INT64, (-1,)),
    "user_level": InputSpec(wire.DT_INT32, (-1,)),
    "user_income": InputSpec(wire.DT_FLOAT, (-1,)),
    "user_member": InputSpec(wire.DT_BOOL, (-1,)),
    "user_tags": InputSpec(wire.DT_STRING, (-1, -1)),
    "user_image": InputSpec(wire.DT_FLOAT, (-1, 3)),
    "history_item_ids": InputSpec(wire.DT_STRING, (-1, 4)),
    "k": InputSpec(wire.DT_INT32, ()),
}


def test_histories_are_sent_as_given_and_padded_to_the_longest() -> None:
    columns = query_columns(
        [
            Query("a", history=[("y", 20), HistoryEvent("x", 10), ("y", 20)], exclude=["p"], time=5),
            Query(exclude=["q", "r"]),
        ],
        exclude=["s"],
    )
    assert {name: array(column).tolist() for name, column in columns.items()} == {
        "user_id": [b"a", b""],
        "history_item_ids": [[b"y", b"x", b"y"], [b"", b"", b""]],
        "history_times": [[20, 10, 20], [0, 0, 0]],
        "time": [5, 0],
        "exclude_item_ids": [[b"p", b"s", b""], [b"q", b"r", b"s"]],
    }


def test_everything_left_out_is_filled_in_by_type_and_rank() -> None:
    sent = {name: decode(tensor) for name, tensor in complete({}, SPECS, "recommend", batch=2).items()}
    assert sent.keys() == SPECS.keys()
    assert sent["user_age"].tolist() == [b"", b""]
    assert sent["user_visits"].tolist() == [0, 0]
    assert sent["user_member"].tolist() == [False, False]
    assert np.isnan(sent["user_income"]).tolist() == [True, True]
    assert sent["user_tags"].shape == (2, 0)
    assert np.isnan(sent["user_image"]).shape == (2, 3)
    assert sent["k"].shape == ()


def test_features_become_columns_with_gaps_for_missing_values() -> None:
    rows: list[dict[str, Any]] = [
        {"age": "25-34", "income": np.float64(1.5), "tags": ["a", "b"], "image": np.array([1.0, 2.0, 3.0])},
        {"visits": np.int32(4), "age": None, "member": True, "tags": ("c",)},
    ]
    columns = {name: array(column) for name, column in feature_columns("user", rows, SPECS).items()}
    assert columns["user_age"].tolist() == [b"25-34", b""]
    assert columns["user_visits"].tolist() == [0, 4]
    assert columns["user_member"].tolist() == [False, True]
    assert columns["user_income"][0] == 1.5
    assert math.isnan(columns["user_income"][1])
    assert columns["user_tags"].tolist() == [[b"a", b"b"], [b"c", b""]]
    assert columns["user_image"][0].tolist() == [1.0, 2.0, 3.0]
    assert np.isnan(columns["user_image"][1]).all()


def test_a_fixed_width_is_padded_to_and_not_exceeded() -> None:
    columns = query_columns([Query(history=[("a", 1), ("b", 2)])])
    sent = complete({"history_item_ids": columns["history_item_ids"]}, SPECS, "recommend", batch=1)
    assert decode(sent["history_item_ids"]).tolist() == [[b"a", b"b", b"", b""]]
    long = query_columns([Query(history=[("a", 1)] * 5)])["history_item_ids"]
    with pytest.raises(InvalidRequestError, match="history_item_ids: found 5 values, the model takes at most 4"):
        complete({"history_item_ids": long}, SPECS, "recommend", batch=1)


def test_unknown_features_name_the_nearest_and_all_known_ones() -> None:
    with pytest.raises(UnknownFeatureError) as caught:
        feature_columns("user", [{"incme": 1.0}], SPECS)
    assert (caught.value.feature, caught.value.suggestion) == ("incme", "income")
    assert caught.value.known == ("age", "image", "income", "level", "member", "tags", "visits")
    assert caught.value.message.endswith("age, image, income, level, member, tags, visits")
    with pytest.raises(UnknownFeatureError, match=r"unknown context feature 'x'\. The model's context features: none"):
        feature_columns("context", [{"x": 1.0}], SPECS)
    with pytest.raises(UnknownFeatureError, match="'id'"):  # the user's id is no feature
        feature_columns("user", [{"id": "7"}], SPECS)


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        ("income", "3", "found str '3', the model expects float"),
        ("income", True, "found bool True, the model expects float"),
        ("income", 1e39, "1e[+]39 does not fit in float32"),
        ("income", 10**400, "does not fit in float32"),
        ("age", 25, "found int 25, the model expects string"),
        ("visits", 1.0, "found float 1.0, the model expects int64"),
        ("visits", False, "found bool False, the model expects int64"),
        ("visits", 2**63, "9223372036854775808 does not fit in int64"),
        ("level", 2**31, "2147483648 does not fit in int32"),
        ("member", 1, "found int 1, the model expects bool"),
        ("tags", "a b", "found str 'a b', the model expects a list of string"),
        ("tags", ["a", 1], "found int 1, the model expects string"),
        ("image", 1.0, "found float 1.0, the model expects a list of float"),
        ("age", ["x" * 100], r"found list \['xxx.*\.\.\., the model expects string"),
    ],
)
def test_values_of_the_wrong_type_are_refused(feature: str, value: Any, message: str) -> None:
    with pytest.raises(FeatureTypeError, match=f"user feature '{feature}': .*{message}") as caught:
        feature_columns("user", [{feature: value}], SPECS)
    assert caught.value.feature == feature


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3, np.float32(2), np.int64(5)])
def test_numbers_that_a_float_feature_takes(value: float) -> None:
    column = feature_columns("user", [{"income": value}], SPECS)["user_income"]
    np.testing.assert_array_equal(array(column), [value])


@given(moment=st.datetimes(datetime(1950, 1, 1), datetime(2150, 1, 1)), hours=st.integers(-12, 14))
def test_a_moment_is_the_same_in_every_time_zone(moment: datetime, hours: int) -> None:
    moment = moment.replace(tzinfo=UTC)
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    assert unix_seconds(moment.astimezone(timezone(timedelta(hours=hours))), "time") == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (datetime(2026, 3, 1), "time: 2026-03-01T00:00:00 has no time zone"),
        (1_700_000_000_000, "too large for unix seconds; are these milliseconds"),
        ("2026-03-01", "expected unix seconds or a datetime, found '2026-03-01'"),
        (math.nan, "expected unix seconds or a datetime, found nan"),
        (True, "expected unix seconds or a datetime, found True"),
    ],
)
def test_moments_that_could_be_misread_are_refused(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        unix_seconds(value, "time")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(exclude="abc"), "exclude: expected a list of item ids, found the single string 'abc'"),
        (Query(exclude=["a", ""]), r"exclude\[1\]: expected a non-empty string, found ''"),
        (Query(history=[("a", 1), (7, 2)]), r"history\[1\]: expected a non-empty string, found 7"),  # type: ignore[list-item]
        (Query(history=["ab", "a"]), r"history\[0\]: expected unix seconds or a datetime, found 'b'"),  # type: ignore[list-item]
        (Query(history=["a"]), r"history\[0\]: expected \(item_id, time\), found 'a'"),  # type: ignore[list-item]
        (Query(user_id=1364), "user_id: expected a string, found 1364"),  # type: ignore[arg-type]
    ],
)
def test_malformed_queries_are_refused_without_a_server(query: Query, message: str) -> None:
    with Recommender("localhost:1", timeout=0.1) as client, pytest.raises(InvalidRequestError, match=message):
        client.recommend_many([query])


@pytest.mark.parametrize(
    ("target", "uri"),
    [
        ("localhost:8500", "dns:///localhost:8500"),
        ("[::1]:8500", "dns:///[::1]:8500"),
        ("dns:///models:8500", "dns:///models:8500"),
        ("unix:/run/model.sock", "unix:/run/model.sock"),
        ("ipv4:10.0.0.1:8500,10.0.0.2:8500", "ipv4:10.0.0.1:8500,10.0.0.2:8500"),
    ],
)
def test_targets(target: str, uri: str) -> None:
    assert target_uri(target) == uri
