"""numpy arrays to and from TensorProto, without TensorFlow."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from . import wire_pb2 as wire


class _Layout(NamedTuple):
    dtype: np.dtype[Any]  # little-endian, as in tensor_content
    field: str  # the repeated field that holds the values when tensor_content does not


_LAYOUTS: dict[int, _Layout] = {
    int(code): _Layout(np.dtype(dtype), field)
    for code, dtype, field in (
        (wire.DT_FLOAT, "<f4", "float_val"),
        (wire.DT_DOUBLE, "<f8", "double_val"),
        (wire.DT_HALF, "<f2", "half_val"),
        (wire.DT_INT8, "i1", "int_val"),
        (wire.DT_INT16, "<i2", "int_val"),
        (wire.DT_INT32, "<i4", "int_val"),
        (wire.DT_INT64, "<i8", "int64_val"),
        (wire.DT_UINT8, "u1", "int_val"),
        (wire.DT_UINT16, "<u2", "int_val"),
        (wire.DT_UINT32, "<u4", "uint32_val"),
        (wire.DT_UINT64, "<u8", "uint64_val"),
        (wire.DT_BOOL, "?", "bool_val"),
    )
}


def dtype_name(dtype: int) -> str:
    """Return TensorFlow's name of a DataType number: ``DT_FLOAT`` is ``float``."""
    return wire.DataType.Name(dtype)[3:].lower() if dtype in wire.DataType.values() else f"dtype {dtype}"


def numpy_dtype(dtype: int) -> np.dtype[Any]:
    """Return the numpy dtype of a DataType number; strings are objects.

    Raises:
        ValueError: the client does not handle this dtype.
    """
    if dtype == wire.DT_STRING:
        return np.dtype(object)
    return _layout(dtype).dtype


def encode(array: npt.NDArray[Any], dtype: int) -> wire.TensorProto:
    """Write an array as a TensorProto of `dtype`: numbers as ``tensor_content``, strings as ``string_val``.

    Args:
        array: any shape; for DT_STRING an array of ``bytes`` objects.
        dtype: a DataType number.
    """
    tensor = wire.TensorProto(dtype=dtype)  # type: ignore[arg-type]
    shape = tensor.tensor_shape.dim
    for size in array.shape:
        shape.add(size=size)
    if dtype == wire.DT_STRING:
        tensor.string_val.extend(array.ravel().tolist())
    else:
        tensor.tensor_content = array.astype(_layout(dtype).dtype, copy=False).tobytes()
    return tensor


def decode(tensor: wire.TensorProto) -> npt.NDArray[Any]:
    """Read a TensorProto, from ``tensor_content`` or from the repeated field of its dtype.

    As in TensorFlow, a repeated field shorter than the shape goes on with its last value, and an empty one is zeros.

    Returns:
        An array of the proto's shape; DT_STRING gives ``bytes`` objects.

    Raises:
        ValueError: a dtype that the client does not handle, or more or fewer values than the shape holds.
    """
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    size = math.prod(shape)
    if tensor.dtype == wire.DT_STRING:
        strings = np.empty(len(tensor.string_val), dtype=object)
        strings[:] = tensor.string_val
        return _fill(strings, size, b"").reshape(shape)
    dtype, field = _layout(tensor.dtype)
    if tensor.tensor_content:
        values = np.frombuffer(tensor.tensor_content, dtype=dtype)
        if values.size != size:
            raise ValueError(f"tensor_content holds {values.size} values, its shape {shape} needs {size}")
        return values.reshape(shape)
    repeated = getattr(tensor, field)
    if tensor.dtype == wire.DT_HALF:  # bit patterns
        return _fill(np.array(repeated, dtype=np.uint16).view(dtype), size, 0).reshape(shape)
    return _fill(np.array(repeated, dtype=dtype), size, 0).reshape(shape)


def _layout(dtype: int) -> _Layout:
    try:
        return _LAYOUTS[dtype]
    except KeyError:
        raise ValueError(f"tensors of type {dtype_name(dtype)} are not supported by this client") from None


def _fill(values: npt.NDArray[Any], size: int, empty: object) -> npt.NDArray[Any]:
    if values.size == size:
        return values
    if values.size > size:
        raise ValueError(f"the tensor holds {values.size} values, its shape needs {size}")
    filled = np.empty(size, dtype=values.dtype)
    filled[: values.size] = values
    filled[values.size :] = values[-1] if values.size else empty
    return filled
