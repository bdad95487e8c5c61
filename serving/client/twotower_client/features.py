"""Features by name, checked against the model's signature and laid out as batch columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import numpy as np
import numpy.typing as npt

from . import wire_pb2 as wire
from .errors import FeatureTypeError, InvalidRequestError, UnknownFeatureError
from .metadata import InputSpec
from .tensors import dtype_name, numpy_dtype
from .types import FeatureValue


def missing_value(dtype: int) -> Any:
    """Return what stands for "not known" on the wire: an empty string, NaN, 0 or False."""
    if dtype == wire.DT_STRING:
        return b""
    return np.nan if numpy_dtype(dtype).kind == "f" else 0


def feature_columns(
    kind: str, rows: Sequence[Mapping[str, FeatureValue]], specs: Mapping[str, InputSpec]
) -> dict[str, npt.NDArray[Any]]:
    """Lay out the features of a batch, one column per feature that any row names.

    Args:
        kind: ``user``, ``context`` or ``item``; ``<kind>_<name>`` is the input's name on the wire.
        rows: the features of each example; None stands for a missing value.
        specs: the inputs of the signature.

    Returns:
        Columns by input name: ``[b]``, or ``[b, width]`` for a feature with several values per example.

    Raises:
        UnknownFeatureError: the signature has no such feature.
        FeatureTypeError: a value is not of the feature's type, or does not fit in it.
    """
    prefix = f"{kind}_"
    # <kind>_id and item_ids are ids, not features.
    known = [name.removeprefix(prefix) for name in specs if name.startswith(prefix)]
    known = [name for name in known if name not in {"id", "ids"}]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        if name not in known:
            raise UnknownFeatureError(kind, name, known)
        columns[prefix + name] = _column(kind, name, [row.get(name) for row in rows], specs[prefix + name])
    return columns


def _column(kind: str, name: str, values: Sequence[FeatureValue], spec: InputSpec) -> npt.NDArray[Any]:
    dtype = numpy_dtype(spec.dtype)
    missing = missing_value(spec.dtype)
    rank = 1 if spec.shape is None else len(spec.shape)
    if rank == 1:
        column = np.full(len(values), missing, dtype=dtype)
        for row, value in enumerate(values):
            if value is not None:
                column[row] = _checked(kind, name, value, spec.dtype, dtype)
        return column
    if rank != 2:
        raise InvalidRequestError(f"{kind} feature {name!r} has rank {rank} in the model; this client sends 1 or 2")
    lists = [_several(kind, name, value, spec.dtype) for value in values]
    column = np.full((len(values), max(map(len, lists), default=0)), missing, dtype=dtype)
    for row, several in enumerate(lists):
        for position, value in enumerate(several):
            column[row, position] = _checked(kind, name, value, spec.dtype, dtype)
    return column


def _several(kind: str, name: str, value: FeatureValue, wire_dtype: int) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return value  # type: ignore[return-value]  # an array is sequence enough here
    raise _wrong_type(kind, name, value, f"a list of {dtype_name(wire_dtype)}")


def _checked(kind: str, name: str, value: Any, wire_dtype: int, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "O":
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, bytes):
            return value
    elif dtype.kind == "b":
        if isinstance(value, (bool, np.bool_)):
            return value
    # A bool is an int to Python; where a number is meant it is more often a slip.
    elif not isinstance(value, (bool, np.bool_)):
        if dtype.kind in "iu" and isinstance(value, (int, np.integer)):
            limits = np.iinfo(dtype)
            if limits.min <= value <= limits.max:
                return value
            raise FeatureTypeError(name, f"{kind} feature {name!r}: {value} does not fit in {dtype.name}")
        if dtype.kind == "f" and isinstance(value, (int, float, np.integer, np.floating)):
            magnitude: Any = abs(value)
            if not magnitude < inf or magnitude <= float(np.finfo(dtype).max):  # NaN and infinity fit
                return value
            raise FeatureTypeError(name, f"{kind} feature {name!r}: {value} does not fit in {dtype.name}")
    raise _wrong_type(kind, name, value, dtype_name(wire_dtype))


def _wrong_type(kind: str, name: str, value: object, expected: str) -> FeatureTypeError:
    found = repr(value)
    found = found if len(found) <= 60 else f"{found[:57]}..."
    return FeatureTypeError(
        name, f"{kind} feature {name!r}: found {type(value).__name__} {found}, the model expects {expected}"
    )
