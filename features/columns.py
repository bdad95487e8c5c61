"""Arrow columns to ids, times, numbers and labels; a value that does not fit is named by file, row and column."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from twotower.features.errors import InputError
from twotower.features.spec import DropRule


@dataclass(frozen=True)
class Chunk:
    """Some rows of a table's file.

    Attributes:
        file: where they were read.
        rows: [n] their numbers in the file, from 1; a CSV header is not counted.
        table: the columns that were asked for.
    """

    file: Path
    rows: npt.NDArray[np.int64]
    table: pa.Table

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> pa.Array:
        """One column as a single array."""
        column = self.table.column(name).combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # combine_chunks keeps an empty column chunked
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        if pa.types.is_fixed_size_list(column.type):
            column = pa.array(column.to_pylist(), pa.list_(column.type.value_type))
        return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column

    def where(self, keep: npt.NDArray[np.bool_]) -> Chunk:
        """The rows where ``keep`` [n] holds."""
        return Chunk(self.file, self.rows[keep], self.table.filter(pa.array(keep)))

    def fault(self, row: int, column: str, found: object, expected: str) -> InputError:
        """The error for row number ``row`` of this chunk."""
        shown = repr(found) if len(repr(found)) <= 60 else repr(found)[:57] + "..."
        return InputError(f"{self.file}: row {self.rows[row]}, column '{column}': found {shown}, expected {expected}")

    def mismatch(self, column: str, expected: str) -> InputError:
        """The error for a column whose type does not fit."""
        found = self.table.schema.field(column).type
        return InputError(f"{self.file}: column '{column}': found {found}, expected {expected}")

    def refuse(self, bad: npt.NDArray[np.bool_], column: str, expected: str) -> None:
        """Raise for the first row where ``bad`` [n] holds."""
        if bad.any():
            row = int(np.argmax(bad))
            raise self.fault(row, column, self.column(column)[row].as_py(), expected)


def apply_drops(chunk: Chunk, rules: Sequence[DropRule]) -> tuple[Chunk, dict[str, int]]:
    """Leave out the rows that a rule meets, in the rules' order; how many each left out, by its reason."""
    counts: dict[str, int] = {}
    for rule in rules:
        met = _meets(chunk, rule)
        counts[rule.reason] = counts.get(rule.reason, 0) + int(met.sum())
        chunk = chunk.where(~met)
    return chunk, counts


def ids(chunk: Chunk, column: str) -> pa.Array:
    """A column of ids as strings; whole floats lose their fraction (``13085.0`` is ``13085``).

    Raises:
        InputError: an id is missing, empty or holds a line break (no line of a vocabulary) or a NUL.
    """
    values = strings(chunk, column)
    chunk.refuse(_mask(pc.equal(values, "")), column, "an id that is not empty (a drop rule can leave such rows out)")
    chunk.refuse(_mask(pc.match_substring_regex(values, r"[\r\n\x00]")), column, "an id without a line break or a NUL")
    return values


def strings(chunk: Chunk, column: str) -> pa.Array:
    """A column of scalars as strings; missing values are empty.

    Raises:
        InputError: the column holds lists, or no text.
    """
    return _text(chunk, column, _scalars(chunk, column))


def numbers(chunk: Chunk, column: str) -> npt.NDArray[np.float64]:
    """A column of numbers as float64; missing values, and the text NaN or NA, are NaN.

    Raises:
        InputError: a value is no finite number.
    """
    values = _scalars(chunk, column)
    if _is_text(values.type):
        text = pc.utf8_trim_whitespace(_text(chunk, column, values))
        valid = pc.match_substring_regex(text, r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
        empty = pc.is_in(text, value_set=pa.array(["", "NaN", "nan", "NA"]))
        chunk.refuse(~_mask(pc.or_(valid, empty)), column, "a number")
        plain = pc.replace_substring_regex(text, r"^\+", "")  # Arrow's parser takes no plus sign
        values = pc.if_else(empty, pa.scalar(None, pa.string()), plain)
    elif not any(test(values.type) for test in _NUMERIC):
        raise chunk.mismatch(column, "numbers")
    result = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    chunk.refuse(np.isinf(result), column, "a finite number")
    return np.asarray(result, dtype=np.float64)


def seconds(
    chunk: Chunk, column: str, time_format: str | None = None, *, future: bool = False
) -> npt.NDArray[np.int64]:
    """A column of times as unix seconds; times without a zone are UTC.

    Timestamps, dates, whole numbers (unix seconds) and text: ISO 8601 or unix seconds. With ``time_format``
    (strptime) text and whole numbers are read as it says.

    Raises:
        InputError: a time is missing, does not parse or, unless ``future``, lies in the future.
    """
    values = _scalars(chunk, column)
    kind = values.type
    expected = f"a time like {dt.datetime(2017, 12, 31, 18, 5).strftime(time_format or '%Y-%m-%dT%H:%M:%S')}"
    if _is_text(kind) or (time_format and pa.types.is_integer(kind)):
        texts = pc.dictionary_encode(_text(chunk, column, values))
        parsed = [_parse(value, time_format) for value in texts.dictionary.to_pylist()]
        rows = texts.indices.to_numpy()
        chunk.refuse(np.array([moment is None for moment in parsed], dtype=bool)[rows], column, expected)
        result = np.array(parsed, dtype=np.int64)[rows]
    else:
        chunk.refuse(_mask(pc.is_null(values, nan_is_null=True)), column, expected)
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            stamps = values.cast(pa.timestamp("us", getattr(kind, "tz", None)), safe=False)
            result = np.floor_divide(stamps.cast(pa.int64()).to_numpy(zero_copy_only=False), 1_000_000)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            result = np.floor(values.to_numpy(zero_copy_only=False))
        else:
            raise chunk.mismatch(column, expected)
    if not future:
        tomorrow = dt.datetime.now(dt.UTC).timestamp() + 86_400
        chunk.refuse(np.asarray(result > tomorrow, dtype=bool), column, "a time that is not in the future")
    return np.asarray(result, dtype=np.int64)


def labels(chunk: Chunk, column: str, separator: str | None) -> list[list[str]]:
    """A column of several labels: lists, or text split at ``separator``; empty labels are left out.

    Raises:
        InputError: the column holds one value a row and there is no separator.
    """
    values = chunk.column(column)
    if _is_list(values.type):
        flat = _text(chunk, column, values.flatten()).to_pylist()
        ends = np.cumsum(_lengths(values)).tolist()
        return [[label for label in flat[start:end] if label] for start, end in zip([0, *ends], ends, strict=False)]
    if separator is None:
        raise chunk.mismatch(column, "lists of labels, or the key 'separator' in the spec")
    return [
        [label.strip() for label in row.split(separator) if label.strip()] for row in strings(chunk, column).to_pylist()
    ]


def vectors(chunk: Chunk, column: str, size: int) -> list[list[float]]:
    """A column of vectors of ``size`` numbers; a missing one is empty.

    Raises:
        InputError: a row is no list, or one of another length or of something else than finite numbers.
    """
    values = chunk.column(column)
    if not _is_list(values.type):
        raise chunk.mismatch(column, f"lists of {size} numbers")
    rows = [row or [] for row in values.to_pylist()]
    for index, row in enumerate(rows):
        if row and (len(row) != size or not all(isinstance(x, int | float) and np.isfinite(x) for x in row)):
            raise chunk.fault(index, column, row, f"a list of {size} finite numbers")
    return [[float(x) for x in row] for row in rows]


def _meets(chunk: Chunk, rule: DropRule) -> npt.NDArray[np.bool_]:
    if rule.missing:
        return _mask(pc.equal(strings(chunk, rule.column), ""))
    if rule.equals is not None:
        return _mask(pc.is_in(strings(chunk, rule.column), value_set=pa.array(rule.equals)))
    if rule.starts_with is not None:
        return _mask(pc.starts_with(strings(chunk, rule.column), rule.starts_with))
    values = numbers(chunk, rule.column)
    if rule.below is not None:
        return np.asarray(values < rule.below)
    assert rule.above is not None
    return np.asarray(values > rule.above)


def _scalars(chunk: Chunk, column: str) -> pa.Array:
    """A column of one value a row; lists of at most one value, which is what TFRecords hold, are unpacked."""
    values = chunk.column(column)
    if _is_list(values.type):
        lengths = _lengths(values)
        chunk.refuse(lengths > 1, column, "one value a row, not a list")
        return values.flatten().take(pa.array(np.cumsum(lengths) - 1, mask=lengths == 0))
    if pa.types.is_nested(values.type):
        raise chunk.mismatch(column, "one value a row")
    return values


def _text(chunk: Chunk, column: str, values: pa.Array) -> pa.Array:
    """Values of a column as strings, each by itself: the same value reads the same in every chunk."""
    kind = values.type
    try:
        if pa.types.is_floating(kind):
            floats = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
            whole = (np.abs(floats) < 2**53) & (floats == np.floor(floats))
            integers = pa.array(np.where(whole, floats, 0).astype(np.int64)).cast(pa.string())
            values = pc.if_else(pa.array(whole), integers, values.cast(pa.string()))
            values = pc.if_else(pa.array(np.isnan(floats)), pa.scalar(None, pa.string()), values)
        elif pa.types.is_decimal(kind):
            decimals = values.to_pylist()
            values = pa.array([None if x is None else f"{x.normalize():f}" for x in decimals], pa.string())
        return pc.fill_null(values.cast(pa.string()), "")
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise chunk.mismatch(column, "UTF-8 text, numbers or times") from None


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    return np.asarray(lengths.to_numpy(zero_copy_only=False), dtype=np.int64)


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


_NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)


def _mask(condition: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(condition, False).to_numpy(zero_copy_only=False), dtype=bool)


def _parse(text: str, time_format: str | None) -> int | None:
    try:
        moment = dt.datetime.strptime(text, time_format) if time_format else dt.datetime.fromisoformat(text)
    except ValueError:
        # Eight digits are a date (ISO 8601 without dashes); unix seconds have had nine or more since 1973.
        unix = not time_format and text.isascii() and text.isdigit() and len(text) > 8
        return int(text) if unix else None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp())
