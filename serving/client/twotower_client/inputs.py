"""Queries as the input tensors of a signature: ids, histories and times laid out, the rest filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from math import floor, isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from . import wire_pb2 as wire
from .errors import InvalidRequestError
from .features import missing_value
from .metadata import InputSpec
from .tensors import encode, numpy_dtype
from .types import Query, Time

#: The year 5138 in seconds, 1973 in milliseconds: a larger number is a mistake in the unit.
_MAX_SECONDS = 100_000_000_000


def unix_seconds(value: Time, what: str) -> int:
    """Return a moment as whole unix seconds, rounded down.

    Args:
        value: seconds, or a datetime with a time zone.
        what: names the value in the error.

    Raises:
        InvalidRequestError: neither of these, or a number that can only be milliseconds.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidRequestError(f"{what}: {value.isoformat()} has no time zone; give it one, e.g. timezone.utc")
        return floor(value.timestamp())
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not isfinite(value):
        raise InvalidRequestError(f"{what}: expected unix seconds or a datetime, found {value!r}")
    if abs(value) > _MAX_SECONDS:
        raise InvalidRequestError(f"{what}: {value} is too large for unix seconds; are these milliseconds?")
    return floor(value)


def id_column(ids: Sequence[str], what: str) -> npt.NDArray[Any]:
    """Return ids as an object array ``[n]`` of UTF-8 bytes.

    Raises:
        InvalidRequestError: not a list of strings. An empty id is refused too: it is what padding looks like.
    """
    if isinstance(ids, (str, bytes)):
        raise InvalidRequestError(f"{what}: expected a list of item ids, found the single string {ids!r}")
    column = np.empty(len(ids), dtype=object)
    for position, item_id in enumerate(ids):
        if not isinstance(item_id, str) or not item_id:
            raise InvalidRequestError(f"{what}[{position}]: expected a non-empty string, found {item_id!r}")
        column[position] = item_id.encode()
    return column


def query_columns(queries: Sequence[Query], exclude: Sequence[str] = ()) -> dict[str, npt.NDArray[Any]]:
    """Lay out all of the queries but their features.

    Args:
        queries: b queries.
        exclude: item ids to exclude for every query, beside each query's own.

    Returns:
        ``user_id`` [b], ``history_item_ids`` and ``history_times`` [b, h], ``time`` [b], ``exclude_item_ids`` [b, e].
    """
    shared = id_column(exclude, "exclude")
    users = np.empty(len(queries), dtype=object)
    times = np.zeros(len(queries), dtype=np.int64)
    item_ids, item_times, excluded = [], [], []
    for row, query in enumerate(queries):
        if not isinstance(query.user_id, str):
            raise InvalidRequestError(f"user_id: expected a string, found {query.user_id!r}")
        users[row] = query.user_id.encode()
        if query.time is not None:
            times[row] = unix_seconds(query.time, "time")
        history = [_event(event, position) for position, event in enumerate(query.history)]
        item_ids.append(id_column([item_id for item_id, _ in history], "history"))
        item_times.append(np.array([seconds for _, seconds in history], dtype=np.int64))
        excluded.append(np.concatenate([id_column(query.exclude, "exclude"), shared]))
    return {
        "user_id": users,
        "history_item_ids": _padded(item_ids, b"", np.dtype(object)),
        "history_times": _padded(item_times, 0, np.dtype(np.int64)),
        "time": times,
        "exclude_item_ids": _padded(excluded, b"", np.dtype(object)),
    }


def complete(
    columns: Mapping[str, npt.NDArray[Any]], specs: Mapping[str, InputSpec], signature: str, batch: int
) -> dict[str, wire.TensorProto]:
    """Encode the columns and fill in every other input of the signature with "not known".

    Args:
        columns: arrays by input name.
        specs: the inputs of the signature.
        signature: its name, for errors.
        batch: the number of examples, for inputs that are filled in.

    Raises:
        InvalidRequestError: a column that is not empty and not in the signature, or wider than it takes.
    """
    for name, column in columns.items():
        if name not in specs and any(column.ravel().tolist()):
            raise InvalidRequestError(f"the model's signature {signature!r} takes no {name!r}")
    tensors = {}
    for name, spec in specs.items():
        if name in columns:
            array = _widened(name, columns[name], spec)
        else:
            # The first size is the batch; a size that is not fixed is 0: nothing known of it.
            inner = [max(size, 0) for size in (spec.shape or ())[1:]]
            shape = () if spec.shape == () else (batch, *inner)
            array = np.full(shape, missing_value(spec.dtype), dtype=numpy_dtype(spec.dtype))
        tensors[name] = encode(array, spec.dtype)
    return tensors


def _event(event: tuple[str, Time], position: int) -> tuple[str, int]:
    try:
        item_id, time = event
    except (TypeError, ValueError):
        raise InvalidRequestError(f"history[{position}]: expected (item_id, time), found {event!r}") from None
    return item_id, unix_seconds(time, f"history[{position}]")


def _padded(rows: Sequence[npt.NDArray[Any]], padding: object, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    table = np.full((len(rows), max(map(len, rows), default=0)), padding, dtype=dtype)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values
    return table


def _widened(name: str, array: npt.NDArray[Any], spec: InputSpec) -> npt.NDArray[Any]:
    """Pad the second dimension to the size that the signature fixes, if it does."""
    if array.ndim != 2 or spec.shape is None or len(spec.shape) != 2 or spec.shape[1] in (-1, array.shape[1]):
        return array
    width = spec.shape[1]
    if array.shape[1] > width:
        raise InvalidRequestError(f"{name}: found {array.shape[1]} values, the model takes at most {width}")
    table = np.full((len(array), width), missing_value(spec.dtype), dtype=array.dtype)
    table[:, : array.shape[1]] = array
    return table
