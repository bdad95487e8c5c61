"""Features by name, checked against the model's signature and laid out as batch columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import wire_pb2 as wire
from .errors import FeatureTypeError, InvalidRequestError, UnknownFeatureError
from .metadata import InputSpec
from .tensors import DType, Tensor, dtype_name, numeric
from .types import FeatureValue

#: The largest finite values of the float types, by their size in bytes; a Python float is a double.
_LARGEST = {2: 65504.0, 4: 3.4028234663852886e38, 8: 1.7976931348623157e308}


def missing_value(dtype: int) -> Any:
    """Return what stands for "not known" on the wire: an empty string, NaN, 0 or False."""
    if dtype == wire.DT_STRING:
        return b""
    return {"f": float("nan"), "b": False}.get(numeric(dtype).kind, 0)


def plain(value: Any) -> Any:
    """Return numpy's scalars and arrays as Python's own, and everything else as it is."""
    tolist = getattr(value, "tolist", None)
    return value if tolist is None else tolist()


def feature_columns(
    kind: str, rows: Sequence[Mapping[str, FeatureValue]], specs: Mapping[str, InputSpec]
) -> dict[str, Tensor]:
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
        columns[prefix + name] = _column(kind, name, [plain(row.get(name)) for row in rows], specs[prefix + name])
    return columns


def _column(kind: str, name: str, values: Sequence[Any], spec: InputSpec) -> Tensor:
    missing = missing_value(spec.dtype)
    rank = 1 if spec.shape is None else len(spec.shape)
    if rank == 1:
        checked = [missing if value is None else _checked(kind, name, value, spec.dtype) for value in values]
        return Tensor((len(values),), checked)
    if rank != 2:
        raise InvalidRequestError(f"{kind} feature {name!r} has rank {rank} in the model; this client sends 1 or 2")
    lists = [_several(kind, name, value, spec.dtype) for value in values]
    return padded([[_checked(kind, name, value, spec.dtype) for value in several] for several in lists], missing)


def padded(rows: Sequence[Sequence[Any]], padding: object) -> Tensor:
    """Return rows of any lengths as a tensor ``[len(rows), longest]``."""
    width = max(map(len, rows), default=0)
    values: list[Any] = []
    for row in rows:
        values.extend(row)
        values.extend([padding] * (width - len(row)))
    return Tensor((len(rows), width), values)


def _several(kind: str, name: str, value: Any, dtype: int) -> Sequence[Any]:
    if value is None:
        return ()
    if isinstance(value, (list, tuple)):
        return value
    raise _wrong_type(kind, name, value, f"a list of {dtype_name(dtype)}")


def _checked(kind: str, name: str, value: Any, number: int) -> Any:
    value = plain(value)
    if number == wire.DT_STRING:
        if isinstance(value, (str, bytes)):
            return value.encode() if isinstance(value, str) else value
    else:
        dtype = numeric(number)
        # A bool is an int to Python; where a number is meant it is more often a slip.
        if isinstance(value, bool):
            fits = dtype.kind == "b"
        else:
            fits = isinstance(value, {"f": (int, float), "b": ()}.get(dtype.kind, int))
        if fits:
            if _too_large(value, dtype):
                raise FeatureTypeError(name, f"{kind} feature {name!r}: {value} does not fit in {dtype.name}")
            return value
    raise _wrong_type(kind, name, value, dtype_name(number))


def _too_large(value: Any, dtype: DType) -> bool:
    if dtype.kind == "f":  # NaN and infinity fit
        return bool(_LARGEST[dtype.size] < abs(value) < float("inf"))
    bits = 8 * dtype.size
    lowest, highest = {"i": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), "u": (0, 2**bits - 1), "b": (0, 1)}[dtype.kind]
    return not lowest <= value <= highest


def _wrong_type(kind: str, name: str, value: object, expected: str) -> FeatureTypeError:
    found = repr(value)
    found = found if len(found) <= 60 else f"{found[:57]}..."
    return FeatureTypeError(
        name, f"{kind} feature {name!r}: found {type(value).__name__} {found}, the model expects {expected}"
    )
