"""Columns to ids, times, numbers, labels and vectors: known answers, and errors that name file, row and column."""

import datetime as dt
import decimal
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.features import columns
from twotower.features.columns import Chunk
from twotower.features.errors import InputError
from twotower.features.spec import DropRule

FILE = Path("shop.parquet")


def chunk(values: Sequence[object], kind: pa.DataType | None = None, first: int = 1) -> Chunk:
    """One column ``x``; its rows count from ``first``."""
    return Chunk(FILE, np.arange(first, first + len(values)), pa.table({"x": pa.array(values, kind)}))


def error(function: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        (["a", "\u00e9\u4e2d\U0001f600", " b "], None, ["a", "\u00e9\u4e2d\U0001f600", " b "]),
        (["007", "7"], None, ["007", "7"]),
        ([b"a", b"\xc3\xa9"], pa.binary(), ["a", "\u00e9"]),
        ([1, -2, 2**62], None, ["1", "-2", str(2**62)]),
        ([2**64 - 1], pa.uint64(), [str(2**64 - 1)]),
        ([13085.0, 100_000_000.0, 0.5, -3.0], None, ["13085", "100000000", "0.5", "-3"]),
        ([13085.0], pa.float32(), ["13085"]),
        ([decimal.Decimal("123456789012345678.00"), decimal.Decimal("1.50")], None, ["123456789012345678", "1.5"]),
        (["a", "b", "a"], pa.dictionary(pa.int8(), pa.string()), ["a", "b", "a"]),
        ([["a"], ["b"]], None, ["a", "b"]),
        ([dt.date(2017, 12, 31)], None, ["2017-12-31"]),
        ([True], None, ["true"]),
    ],
)
def test_ids_are_strings(values: Sequence[object], kind: pa.DataType | None, expected: list[str]) -> None:
    assert columns.ids(chunk(values, kind), "x").to_pylist() == expected


@given(st.lists(st.floats(allow_nan=False), min_size=1), st.floats(allow_nan=False))
def test_the_same_float_is_the_same_id_in_every_chunk(values: list[float], extra: float) -> None:
    alone = columns.ids(chunk(values, pa.float64()), "x").to_pylist()
    assert columns.ids(chunk([*values, extra], pa.float64()), "x").to_pylist()[:-1] == alone
    assert [float(text) for text in alone] == values


@pytest.mark.parametrize(
    ("values", "kind", "row", "found"),
    [
        (["a", "", "b"], None, 12, "''"),
        (["a", "b", None], None, 13, "None"),
        ([1.0, None], None, 12, "None"),
        ([1.5, float("nan")], None, 12, "nan"),
        ([["a"], []], None, 12, "[]"),
        ([None], None, 11, "None"),
    ],
)
def test_missing_id_names_its_row(values: Sequence[object], kind: pa.DataType | None, row: int, found: str) -> None:
    message = error(columns.ids, chunk(values, kind, first=11), "x")
    assert message == (
        f"shop.parquet: row {row}, column 'x': found {found}, expected an id that is not empty "
        "(a drop rule can leave such rows out)"
    )


@pytest.mark.parametrize("bad", ["a\nb", "a\r", "\n", "a\x00"])
def test_id_with_a_line_break_or_a_nul(bad: str) -> None:
    assert error(columns.ids, chunk(["a", bad]), "x") == (
        f"shop.parquet: row 2, column 'x': found {bad!r}, expected an id without a line break or a NUL"
    )


def test_strings_of_missing_values_are_empty() -> None:
    assert columns.strings(chunk(["a", None]), "x").to_pylist() == ["a", ""]
    assert columns.strings(chunk([None, None]), "x").to_pylist() == ["", ""]
    assert columns.strings(chunk([1.5, float("nan"), None]), "x").to_pylist() == ["1.5", "", ""]
    assert columns.strings(chunk([]), "x").to_pylist() == []


def test_category_that_is_a_list() -> None:
    assert error(columns.strings, chunk([["a"], ["b", "c"]]), "x") == (
        "shop.parquet: row 2, column 'x': found ['b', 'c'], expected one value a row, not a list"
    )
    assert "column 'x': found struct<a: int64>, expected one value a row" in error(
        columns.strings, chunk([{"a": 1}]), "x"
    )


def test_bytes_that_are_no_text() -> None:
    assert error(columns.strings, chunk([b"\xff"]), "x") == (
        "shop.parquet: column 'x': found binary, expected UTF-8 text, numbers or times"
    )


def test_long_value_is_cut_in_the_error() -> None:
    message = error(columns.numbers, chunk(["x" * 1_000]), "x")
    assert len(message) < 150
    assert "xxx..." in message


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, -2, None], None, [1, -2, None]),
        ([1.5, float("nan"), None], None, [1.5, None, None]),
        (["1", " 2.5 ", "+3", "-.5", "1e3", "4.", "", None, "NaN", "NA"], None,
         [1, 2.5, 3, -0.5, 1000, 4, None, None, None, None]),
        ([b"7"], None, [7]),
        ([decimal.Decimal("2.50")], None, [2.5]),
        ([True, False], None, [1, 0]),
        ([[3.0], [], None], None, [3, None, None]),
        ([None, None], None, [None, None]),
        ([], None, []),
    ],
)  # fmt: skip
def test_numbers(values: Sequence[object], kind: pa.DataType | None, expected: Sequence[float | None]) -> None:
    found = columns.numbers(chunk(values, kind), "x")
    np.testing.assert_array_equal(found, np.array(expected, dtype=np.float64))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_written_as_text_read_the_same(values: list[float]) -> None:
    np.testing.assert_array_equal(columns.numbers(chunk([repr(x) for x in values], pa.string()), "x"), values)


@pytest.mark.parametrize(
    ("values", "row", "found", "expected"),
    [
        (["1", "two"], 6, "'two'", "a number"),
        (["1,5"], 5, "'1,5'", "a number"),
        (["1 2"], 5, "'1 2'", "a number"),
        (["inf"], 5, "'inf'", "a number"),
        (["-"], 5, "'-'", "a number"),
        (["0x1f"], 5, "'0x1f'", "a number"),
        (["1e999"], 5, "'1e999'", "a finite number"),
        ([1.0, float("inf")], 6, "inf", "a finite number"),
        ([1.0, 2.0, float("-inf")], 7, "-inf", "a finite number"),
        ([[1.0], [1.0, 2.0]], 6, "[1.0, 2.0]", "one value a row, not a list"),
    ],
)
def test_what_is_no_number_names_its_row(values: list[Any], row: int, found: str, expected: str) -> None:
    message = error(columns.numbers, chunk(values, first=5), "x")
    assert message == f"shop.parquet: row {row}, column 'x': found {found}, expected {expected}"


def test_column_that_holds_no_numbers() -> None:
    message = error(columns.numbers, chunk([dt.datetime(2017, 1, 1)]), "x")
    assert message == "shop.parquet: column 'x': found timestamp[us], expected numbers"


NOON = 1_512_086_400 + 12 * 3600  # 2017-12-01 12:00 UTC


@pytest.mark.parametrize(
    ("values", "kind", "time_format", "expected"),
    [
        ([dt.datetime(2017, 12, 1, 12)], pa.timestamp("ns"), None, NOON),
        ([dt.datetime(2017, 12, 1, 12, 0, 0, 999_999)], pa.timestamp("us"), None, NOON),
        ([NOON], pa.timestamp("s", "Europe/Berlin"), None, NOON),
        ([dt.datetime(2017, 12, 1, 14, tzinfo=dt.timezone(dt.timedelta(hours=2)))], None, None, NOON),
        ([dt.date(2017, 12, 1)], pa.date32(), None, NOON - 12 * 3600),
        ([dt.date(1950, 1, 2)], pa.date64(), None, -631_065_600),
        ([dt.datetime(1969, 12, 31, 23, 59, 59, 500_000)], pa.timestamp("us"), None, -1),
        ([NOON], pa.int64(), None, NOON),
        ([NOON + 0.75], pa.float64(), None, NOON),
        (["2017-12-01 12:00:00"], None, None, NOON),
        (["2017-12-01T12:00"], None, None, NOON),
        (["2017-12-01T12:00:00Z"], None, None, NOON),
        (["2017-12-01T14:00:00+02:00"], None, None, NOON),
        (["2017-12-01"], None, None, NOON - 12 * 3600),
        (["20171201"], None, None, NOON - 12 * 3600),
        ([str(NOON)], None, None, NOON),
        (["01.12.2017 12h"], None, "%d.%m.%Y %Hh", NOON),
        (["01.12.2017 14 +0200"], None, "%d.%m.%Y %H %z", NOON),
        ([20171201], pa.int64(), "%Y%m%d", NOON - 12 * 3600),
        ([[NOON]], None, None, NOON),
        (["2017-12-01T12"], pa.dictionary(pa.int8(), pa.string()), None, NOON),
    ],
)
def test_times_are_unix_seconds(
    values: Sequence[object], kind: pa.DataType | None, time_format: str | None, expected: int
) -> None:
    found = columns.seconds(chunk(values, kind), "x", time_format)
    assert found.dtype == np.int64
    assert found.tolist() == [expected]


@given(st.lists(st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2024, 1, 1)), min_size=1))
def test_times_read_the_same_in_every_form(moments: list[dt.datetime]) -> None:
    moments = [moment.replace(microsecond=0) for moment in moments]
    expected = [int(moment.replace(tzinfo=dt.UTC).timestamp()) for moment in moments]
    for values in (moments, [m.isoformat() for m in moments], [f"{m.isoformat(' ')}+00:00" for m in moments], expected):
        assert columns.seconds(chunk(values), "x").tolist() == expected


LIKE = "a time like 2017-12-31T18:05:00"


@pytest.mark.parametrize(
    ("values", "kind", "time_format", "found", "expected"),
    [
        (["2017-12-01", "soon"], None, None, "'soon'", LIKE),
        (["2017-12-01", "01.12.2017"], None, None, "'01.12.2017'", LIKE),
        (["31.12.2017", "12/31/2017"], None, "%d.%m.%Y", "'12/31/2017'", "a time like 31.12.2017"),
        ([str(NOON), "1234567"], None, None, "'1234567'", LIKE),
        (["2017-12-01", None], None, None, "None", LIKE),
        (["2017-12-01", ""], None, None, "''", LIKE),
        ([NOON, None], pa.int64(), None, "None", LIKE),
        ([NOON, float("nan")], None, None, "nan", LIKE),
        ([dt.datetime(2017, 1, 1), None], None, None, "None", LIKE),
        (["2017-12-01", "2999-01-01"], None, None, "'2999-01-01'", "a time that is not in the future"),
        ([NOON, NOON * 1_000], None, None, str(NOON * 1_000), "a time that is not in the future"),
        ([NOON, float("inf")], None, None, "inf", "a time that is not in the future"),
    ],
)
def test_time_that_does_not_fit_names_its_row(
    values: Sequence[object], kind: pa.DataType | None, time_format: str | None, found: str, expected: str
) -> None:
    message = error(columns.seconds, chunk(values, kind, first=8), "x", time_format)
    assert message == f"shop.parquet: row 9, column 'x': found {found}, expected {expected}"


def test_column_that_holds_no_times() -> None:
    assert error(columns.seconds, chunk([True]), "x") == f"shop.parquet: column 'x': found bool, expected {LIKE}"


@pytest.mark.parametrize(
    ("values", "separator", "expected"),
    [
        (["a| b |", "", None, "|"], "|", [["a", "b"], [], [], []]),
        (["a, b", "c"], ", ", [["a", "b"], ["c"]]),
        ([["a", "b"], [], None, ["", None, "c"]], None, [["a", "b"], [], [], ["c"]]),
        ([["a", "b"], ["c"]], "|", [["a", "b"], ["c"]]),
        ([["a"], ["b"]], None, [["a"], ["b"]]),
        ([[1, 2], [3]], None, [["1", "2"], ["3"]]),
        ([[1.0, None], [2.5]], None, [["1"], ["2.5"]]),
        ([[b"a"]], None, [["a"]]),
    ],
)
def test_labels(values: Sequence[object], separator: str | None, expected: list[list[str]]) -> None:
    assert columns.labels(chunk(values), "x", separator) == expected


@given(st.lists(st.lists(st.text(min_size=1)), min_size=1))
def test_labels_of_a_part_of_a_chunk(rows: list[list[str]]) -> None:
    part = chunk(rows, pa.list_(pa.string())).where(np.arange(len(rows)) % 2 == 1)
    assert columns.labels(part, "x", None) == rows[1::2]


def test_labels_without_separator_and_lists_of_lists() -> None:
    assert error(columns.labels, chunk(["a,b"]), "x", None) == (
        "shop.parquet: column 'x': found string, expected lists of labels, or the key 'separator' in the spec"
    )
    assert "column 'x': found list<item: list<item: int64>>" in error(columns.labels, chunk([[[1]]]), "x", None)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 2)])
def test_vectors(kind: pa.DataType) -> None:
    assert columns.vectors(chunk([[1.0, 2.5], None, [0.0, -1.0]], kind), "x", 2) == [[1.0, 2.5], [], [0.0, -1.0]]


def test_vector_of_whole_numbers_is_a_vector_of_floats() -> None:
    rows = columns.vectors(chunk([[1, 2]]), "x", 2)
    assert [type(x) for x in rows[0]] == [float, float]


@pytest.mark.parametrize(
    ("bad", "size"), [([1.0], 2), ([1.0, 2.0, 3.0], 2), ([1.0, float("nan")], 2), ([1.0, float("inf")], 2), ([None], 1)]
)
def test_vector_that_does_not_fit_names_its_row(bad: list[float], size: int) -> None:
    message = error(columns.vectors, chunk([[0.5] * size, bad]), "x", size)
    assert message == f"shop.parquet: row 2, column 'x': found {bad}, expected a list of {size} finite numbers"


def test_column_that_holds_no_vectors() -> None:
    assert error(columns.vectors, chunk([1.0]), "x", 3) == (
        "shop.parquet: column 'x': found double, expected lists of 3 numbers"
    )
    assert "found ['a', 'b'], expected a list of 2 finite numbers" in error(
        columns.vectors, chunk([["a", "b"]]), "x", 2
    )


def rule(reason: str, **condition: Any) -> DropRule:
    return DropRule(column="x", reason=reason, **condition)


@pytest.mark.parametrize(
    ("values", "condition", "kept"),
    [
        (["a", "", None, " "], {"missing": True}, ["a", " "]),
        ([1.0, float("nan"), None], {"missing": True}, [1.0]),
        ([1, 0, -1, None], {"below": 1}, [1, None]),
        (["1", "0.5", ""], {"below": 1}, ["1", ""]),
        ([5, 6, None], {"above": 5}, [5, None]),
        (["M", "POST", "m", None], {"equals": ("M", "POST")}, ["m", None]),
        ([85.0, 85.5], {"equals": ("85",)}, [85.5]),
        (["C1", "c1", "1C", None], {"starts_with": "C"}, ["c1", "1C", None]),
        ([581, 12], {"starts_with": "58"}, [12]),
    ],
)
def test_drop_rule(values: list[object], condition: dict[str, Any], kept: list[object]) -> None:
    found, counts = columns.apply_drops(chunk(values), [rule("why", **condition)])
    assert found.column("x").to_pylist() == kept
    assert counts == {"why": len(values) - len(kept)}


def test_drop_rules_count_in_order_and_keep_row_numbers() -> None:
    rules = [rule("low", below=1), rule("lower", below=3), rule("high", above=8), rule("low", above=7)]
    found, counts = columns.apply_drops(chunk(list(range(10)), first=100), rules)
    assert found.column("x").to_pylist() == [3, 4, 5, 6, 7]
    assert found.rows.tolist() == [103, 104, 105, 106, 107]
    assert counts == {"low": 2, "lower": 2, "high": 1}
    assert list(counts) == ["low", "lower", "high"]
    message = error(found.refuse, np.array([0, 0, 1, 0, 0], bool), "x", "better")
    assert re.fullmatch(r"shop\.parquet: row 105, column 'x': found 5, expected better", message)


def test_drop_rules_of_a_chunk_without_rows() -> None:
    found, counts = columns.apply_drops(chunk([], pa.string()), [rule("a", missing=True), rule("b", below=1)])
    assert (len(found), counts) == (0, {"a": 0, "b": 0})
