"""Queries as the input tensors of a signature: ids, histories and times laid out, the rest filled in."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import floor, isfinite, prod
from typing import Any

from . import wire_pb2 as wire
from .errors import InvalidRequestError
from .features import missing_value, padded, plain
from .metadata import InputSpec
from .tensors import Tensor, dtype_name, encode
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
    seconds: Any = plain(value)
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not isfinite(seconds):
        raise InvalidRequestError(f"{what}: expected unix seconds or a datetime, found {value!r}")
    if abs(seconds) > _MAX_SECONDS:
        raise InvalidRequestError(f"{what}: {value} is too large for unix seconds; are these milliseconds?")
    whole: int = floor(seconds)
    return whole


def id_list(ids: Sequence[str], what: str) -> list[bytes]:
    """Return ids as UTF-8.

    Raises:
        InvalidRequestError: not a list of strings. An empty id is refused too: it is what padding looks like.
    """
    if isinstance(ids, (str, bytes)):
        raise InvalidRequestError(f"{what}: expected a list of item ids, found the single string {ids!r}")
    for position, item_id in enumerate(ids):
        if not isinstance(item_id, str) or not item_id:
            raise InvalidRequestError(f"{what}[{position}]: expected a non-empty string, found {item_id!r}")
    return [item_id.encode() for item_id in ids]


def counting_number(value: int, what: str) -> int:
    """Return a whole number of at least 1.

    Raises:
        InvalidRequestError: anything else.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InvalidRequestError(f"{what}: expected a whole number of at least 1, found {value!r}")
    return number


def list_length(k: int) -> Tensor:
    """Return `k` as a scalar.

    Raises:
        InvalidRequestError: not a whole number of at least 1.
    """
    return Tensor((), [counting_number(k, "k")])


def query_columns(queries: Sequence[Query], exclude: Sequence[str] = ()) -> dict[str, Tensor]:
    """Lay out all of the queries but their features.

    Args:
        queries: b queries.
        exclude: item ids to exclude for every query, beside each query's own.

    Returns:
        ``user_id`` [b], ``history_item_ids`` and ``history_times`` [b, h], ``time`` [b], ``exclude_item_ids`` [b, e].
    """
    shared = id_list(exclude, "exclude")
    users, times, item_ids, item_times, excluded = [], [], [], [], []
    for query in queries:
        if not isinstance(query.user_id, str):
            raise InvalidRequestError(f"user_id: expected a string, found {query.user_id!r}")
        users.append(query.user_id.encode())
        times.append(0 if query.time is None else unix_seconds(query.time, "time"))
        history = [_event(event, position) for position, event in enumerate(query.history)]
        item_ids.append(id_list([item_id for item_id, _ in history], "history"))
        item_times.append([seconds for _, seconds in history])
        excluded.append(id_list(query.exclude, "exclude") + shared)
    return {
        "user_id": Tensor((len(users),), users),
        "history_item_ids": padded(item_ids, b""),
        "history_times": padded(item_times, 0),
        "time": Tensor((len(times),), times),
        "exclude_item_ids": padded(excluded, b""),
    }


def complete(
    columns: Mapping[str, Tensor], specs: Mapping[str, InputSpec], signature: str, batch: int
) -> dict[str, wire.TensorProto]:
    """Encode the columns and fill in every other input of the signature with "not known".

    Args:
        columns: tensors by input name.
        specs: the inputs of the signature.
        signature: its name, for errors.
        batch: the number of examples, for inputs that are filled in.

    Raises:
        InvalidRequestError: a column that is not empty and not in the signature, wider than it takes, or with a number
            that does not fit in the input's type.
    """
    for name, column in columns.items():
        if name not in specs and any(column.values):
            raise InvalidRequestError(f"the model's signature {signature!r} takes no {name!r}")
    tensors = {}
    for name, spec in specs.items():
        if name in columns:
            tensor = _widened(name, columns[name], spec)
        else:
            # The first size is the batch; a size that is not fixed is 0: nothing known of it.
            inner = [max(size, 0) for size in (spec.shape or ())[1:]]
            shape = () if spec.shape == () else (batch, *inner)
            tensor = Tensor(shape, [missing_value(spec.dtype)] * prod(shape))
        try:
            tensors[name] = encode(tensor, spec.dtype)
        except (OverflowError, struct.error) as error:
            raise InvalidRequestError(f"{name}: a number does not fit in {dtype_name(spec.dtype)}: {error}") from None
    return tensors


def _event(event: tuple[str, Time], position: int) -> tuple[str, int]:
    try:
        item_id, time = event
    except (TypeError, ValueError):
        raise InvalidRequestError(f"history[{position}]: expected (item_id, time), found {event!r}") from None
    if type(time) is int and abs(time) <= _MAX_SECONDS:  # nearly always, and histories are long
        return item_id, time
    return item_id, unix_seconds(time, f"history[{position}]")


def _widened(name: str, tensor: Tensor, spec: InputSpec) -> Tensor:
    """Pad the second dimension to the size that the signature fixes, if it does."""
    if len(tensor.shape) != 2 or spec.shape is None or len(spec.shape) != 2 or spec.shape[1] in (-1, tensor.shape[1]):
        return tensor
    width = spec.shape[1]
    if tensor.shape[1] > width:
        raise InvalidRequestError(f"{name}: found {tensor.shape[1]} values, the model takes at most {width}")
    missing = missing_value(spec.dtype)
    return padded([[*row, *[missing] * (width - len(row))] for row in tensor.rows()], missing)
