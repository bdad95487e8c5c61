"""Python values to and from TensorProto, without TensorFlow, and without numpy, whose import takes longer than ours."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import wire_pb2 as wire


class Tensor(NamedTuple):
    """A tensor's shape and its values in row-major order; strings are ``bytes``."""

    shape: tuple[int, ...]
    values: Sequence[Any]

    def rows(self) -> list[Sequence[Any]]:
        """The rows of a tensor of rank 2."""
        count, width = self.shape
        return [self.values[row * width : (row + 1) * width] for row in range(count)]


class DType(NamedTuple):
    """How a numeric DataType is laid out.

    Attributes:
        kind: ``f`` float, ``i`` signed, ``u`` unsigned, ``b`` bool.
        size: bytes of a value.
        code: its format in ``struct``; ``tensor_content`` is little-endian.
        field: the repeated field that holds the values when ``tensor_content`` does not.
    """

    kind: str
    size: int
    code: str
    field: str

    @property
    def name(self) -> str:
        """Its name, as numpy has it: ``int32``."""
        names = {"f": "float", "i": "int", "u": "uint", "b": "bool"}
        return names[self.kind] if self.kind == "b" else f"{names[self.kind]}{8 * self.size}"


_DTYPES: dict[int, DType] = {
    int(number): DType(kind, struct.calcsize(f"<{code}"), code, field)
    for number, kind, code, field in (
        (wire.DT_FLOAT, "f", "f", "float_val"),
        (wire.DT_DOUBLE, "f", "d", "double_val"),
        (wire.DT_HALF, "f", "e", "half_val"),
        (wire.DT_INT8, "i", "b", "int_val"),
        (wire.DT_INT16, "i", "h", "int_val"),
        (wire.DT_INT32, "i", "i", "int_val"),
        (wire.DT_INT64, "i", "q", "int64_val"),
        (wire.DT_UINT8, "u", "B", "int_val"),
        (wire.DT_UINT16, "u", "H", "int_val"),
        (wire.DT_UINT32, "u", "I", "uint32_val"),
        (wire.DT_UINT64, "u", "Q", "uint64_val"),
        (wire.DT_BOOL, "b", "?", "bool_val"),
    )
}


def dtype_name(dtype: int) -> str:
    """Return TensorFlow's name of a DataType number: ``DT_FLOAT`` is ``float``."""
    return wire.DataType.Name(dtype)[3:].lower() if dtype in wire.DataType.values() else f"dtype {dtype}"


def numeric(dtype: int) -> DType:
    """Return the layout of a DataType number other than DT_STRING.

    Raises:
        ValueError: the client does not handle this dtype.
    """
    try:
        return _DTYPES[dtype]
    except KeyError:
        raise ValueError(f"tensors of type {dtype_name(dtype)} are not supported by this client") from None


def encode(tensor: Tensor, dtype: int) -> wire.TensorProto:
    """Write a tensor as a TensorProto of `dtype`: numbers as ``tensor_content``, strings as ``string_val``."""
    proto = wire.TensorProto(dtype=dtype)  # type: ignore[arg-type]
    shape = proto.tensor_shape.dim
    for size in tensor.shape:
        shape.add(size=size)
    if dtype == wire.DT_STRING:
        proto.string_val.extend(tensor.values)
    else:
        proto.tensor_content = struct.pack(f"<{len(tensor.values)}{numeric(dtype).code}", *tensor.values)
    return proto


def decode(proto: wire.TensorProto) -> Tensor:
    """Read a TensorProto, from ``tensor_content`` or from the repeated field of its dtype.

    As in TensorFlow, a repeated field shorter than the shape goes on with its last value, and an empty one is zeros.

    Raises:
        ValueError: a dtype that the client does not handle, or more or fewer values than the shape holds.
    """
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    size = math.prod(shape)
    if proto.dtype == wire.DT_STRING:
        return Tensor(shape, _fill(list(proto.string_val), size, b""))
    dtype = numeric(proto.dtype)
    content = proto.tensor_content
    if content:
        count, rest = divmod(len(content), dtype.size)
        if rest or count != size:
            raise ValueError(
                f"tensor_content holds {len(content) / dtype.size:g} values, its shape {shape} needs {size}"
            )
        return Tensor(shape, struct.unpack(f"<{count}{dtype.code}", content))
    values = list(getattr(proto, dtype.field))
    if proto.dtype == wire.DT_HALF:  # bit patterns
        values = list(struct.unpack(f"<{len(values)}e", struct.pack(f"<{len(values)}H", *values)))
    return Tensor(shape, _fill(values, size, False if dtype.kind == "b" else 0))


def _fill(values: list[Any], size: int, empty: object) -> list[Any]:
    if len(values) > size:
        raise ValueError(f"the tensor holds {len(values)} values, its shape needs {size}")
    return values + [values[-1] if values else empty] * (size - len(values))
