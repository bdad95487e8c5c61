"""The client's tensors as numpy arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt

from twotower_client import tensors
from twotower_client import wire_pb2 as wire

DTYPES = {
    wire.DT_FLOAT: np.float32,
    wire.DT_DOUBLE: np.float64,
    wire.DT_HALF: np.float16,
    wire.DT_INT8: np.int8,
    wire.DT_INT16: np.int16,
    wire.DT_INT32: np.int32,
    wire.DT_INT64: np.int64,
    wire.DT_UINT8: np.uint8,
    wire.DT_UINT16: np.uint16,
    wire.DT_UINT32: np.uint32,
    wire.DT_UINT64: np.uint64,
    wire.DT_BOOL: np.bool_,
    wire.DT_STRING: object,
}


def array(tensor: tensors.Tensor, dtype: Any = None) -> npt.NDArray[Any]:
    """A tensor as an array."""
    flat = np.empty(len(tensor.values), dtype or (object if bytes in map(type, tensor.values) else None))
    flat[:] = tensor.values
    return flat.reshape(tensor.shape)


def encode(values: npt.NDArray[Any], dtype: int) -> wire.TensorProto:
    return tensors.encode(tensors.Tensor(values.shape, values.ravel().tolist()), dtype)


def decode(proto: wire.TensorProto) -> npt.NDArray[Any]:
    return array(tensors.decode(proto), DTYPES.get(proto.dtype))
