"""The server's tensor conversions, against TensorFlow's own C++ ones behind `tf.io.parse_tensor`."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2

from twotower.serving.server.tensors import TensorParsingError, decode, encode_into

NUMBERS = [
    tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.int8, tf.int16, tf.int32, tf.int64,
    tf.uint8, tf.uint16, tf.uint32, tf.uint64, tf.bool, tf.complex64, tf.complex128,
]  # fmt: skip


def sample(dtype: Any) -> Any:
    if dtype == tf.string:
        return np.array([[b"", b"a" * 300, b"\xff\x00"], [b"x", "käse".encode(), b"z"]], object)
    values = np.array([[0, 1, 2], [3, 100, 1]])
    if dtype.is_complex:
        return (values + 2j * values).astype(dtype.as_numpy_dtype)
    return (-values if dtype.is_integer and not dtype.is_unsigned else values).astype(dtype.as_numpy_dtype)


def shaped(size: list[int], **fields: Any) -> tensor_pb2.TensorProto:
    shape = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=n) for n in size])
    return tensor_pb2.TensorProto(tensor_shape=shape, **fields)


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda dtype: dtype.name)
def test_packed_content_is_read_as_tensorflow_writes_it(dtype: Any) -> None:
    proto = tensor_pb2.TensorProto.FromString(tf.io.serialize_tensor(tf.constant(sample(dtype), dtype)).numpy())
    assert proto.tensor_content
    decoded = decode(proto)
    assert decoded.dtype == dtype.as_numpy_dtype
    np.testing.assert_array_equal(decoded, sample(dtype))


@pytest.mark.parametrize("dtype", [*NUMBERS, tf.string], ids=lambda dtype: dtype.name)
def test_written_fields_are_read_by_tensorflow_and_by_us(dtype: Any) -> None:
    proto = tensor_pb2.TensorProto()
    encode_into(proto, sample(dtype))
    assert not proto.tensor_content
    np.testing.assert_array_equal(tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy(), sample(dtype))
    np.testing.assert_array_equal(decode(proto), sample(dtype))


@pytest.mark.parametrize(
    "proto",
    [
        shaped([5], dtype=types_pb2.DT_FLOAT, float_val=[1, 2]),
        shaped([2], dtype=types_pb2.DT_FLOAT, float_val=[1, 2, 3]),
        shaped([2, 2], dtype=types_pb2.DT_INT64),
        shaped([0, 3], dtype=types_pb2.DT_INT64),
        shaped([], dtype=types_pb2.DT_INT32, int_val=[7]),
        shaped([3], dtype=types_pb2.DT_STRING, string_val=[b"a", b"b"]),
        shaped([3], dtype=types_pb2.DT_STRING),
        shaped([], dtype=types_pb2.DT_STRING, string_val=[b"a"]),
        shaped([0], dtype=types_pb2.DT_STRING),
        shaped([3], dtype=types_pb2.DT_STRING, tensor_content=b"\xac\x02\x00\x02" + b"a" * 300 + b"\xff\x00"),
        shaped([2], dtype=types_pb2.DT_UINT8, int_val=[-1, 300]),
        shaped([2], dtype=types_pb2.DT_HALF, half_val=[0x3C00]),
        shaped([3], dtype=types_pb2.DT_COMPLEX64, scomplex_val=[1, 2]),
        tensor_pb2.TensorProto(
            dtype=types_pb2.DT_FLOAT, tensor_shape=tensor_shape_pb2.TensorShapeProto(unknown_rank=True), float_val=[1]
        ),
    ],
    ids=lambda proto: str(proto).replace("\n", " "),
)
def test_unusual_tensors_mean_what_they_mean_to_tensorflow(proto: tensor_pb2.TensorProto) -> None:
    expected = tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype))
    decoded = decode(proto)
    assert decoded.shape == expected.shape
    np.testing.assert_array_equal(decoded, expected.numpy())


@pytest.mark.parametrize(
    "proto",
    [
        shaped([2], dtype=types_pb2.DT_FLOAT, tensor_content=b"1234567"),
        shaped([2], dtype=types_pb2.DT_STRING, tensor_content=b"\x01"),
        shaped([1], dtype=types_pb2.DT_STRING, tensor_content=b"\x05abc"),
        shaped([1], dtype=types_pb2.DT_STRING, tensor_content=b"\x80" * 11 + b"\x01"),
        shaped([-1], dtype=types_pb2.DT_FLOAT, float_val=[1]),
        shaped([1], float_val=[1]),
    ],
    ids=lambda proto: str(proto).replace("\n", " "),
)
def test_what_tensorflow_cannot_parse_is_refused(proto: tensor_pb2.TensorProto) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        tf.io.parse_tensor(proto.SerializeToString(), tf.as_dtype(proto.dtype or types_pb2.DT_FLOAT))
    with pytest.raises(TensorParsingError):
        decode(proto)


def test_a_few_bytes_cannot_ask_for_all_the_memory() -> None:
    with pytest.raises(TensorParsingError, match="needs more than"):
        decode(shaped([10**6, 10**6], dtype=types_pb2.DT_FLOAT, float_val=[1]))
