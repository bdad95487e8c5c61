"""The client's own protocol messages and TensorFlow's are the same bytes, and live in one process."""

import subprocess
import sys
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2
from wire_arrays import decode, encode

from twotower_client import wire_pb2 as wire

NUMPY_DTYPES = {
    "DT_FLOAT": np.float32,
    "DT_DOUBLE": np.float64,
    "DT_HALF": np.float16,
    "DT_INT8": np.int8,
    "DT_INT16": np.int16,
    "DT_INT32": np.int32,
    "DT_INT64": np.int64,
    "DT_UINT8": np.uint8,
    "DT_UINT16": np.uint16,
    "DT_UINT32": np.uint32,
    "DT_UINT64": np.uint64,
    "DT_BOOL": np.bool_,
}
REPEATED: dict[int, str] = {
    wire.DT_FLOAT: "float_val",
    wire.DT_DOUBLE: "double_val",
    wire.DT_HALF: "half_val",
    wire.DT_INT64: "int64_val",
    wire.DT_BOOL: "bool_val",
    wire.DT_UINT32: "uint32_val",
    wire.DT_UINT64: "uint64_val",
}
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def typed_arrays(draw: st.DrawFn) -> tuple[int, npt.NDArray[Any]]:
    name = draw(st.sampled_from([*NUMPY_DTYPES, "DT_STRING"]))
    shape = draw(SHAPES)
    if name == "DT_STRING":
        array = np.empty(shape, dtype=object)
        array.ravel()[:] = draw(st.lists(st.binary(max_size=6), min_size=array.size, max_size=array.size))
        return wire.DT_STRING, array
    array = draw(arrays.arrays(NUMPY_DTYPES[name], shape))
    # The messages are compared below, and NaN is not equal to itself.
    return wire.DataType.Value(name), np.nan_to_num(array) if array.dtype.kind == "f" else array


@settings(max_examples=150, deadline=None)
@given(tensors=st.dictionaries(st.text(max_size=5), typed_arrays(), max_size=3), version=st.integers(0, 2**62))
def test_requests_of_both_kinds_parse_as_each_other(
    tensors: dict[str, tuple[int, npt.NDArray[Any]]], version: int
) -> None:
    import tensorflow as tf

    ours = wire.PredictRequest(
        model_spec=wire.ModelSpec(name="m", version=wire.Int64Value(value=version), signature_name="recommend"),
        inputs={name: encode(array, dtype) for name, (dtype, array) in tensors.items()},
        output_filter=["scores"],
    )
    theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
    assert (theirs.model_spec.name, theirs.model_spec.version.value) == ("m", version)
    assert theirs.model_spec.signature_name == "recommend"
    assert list(theirs.output_filter) == ["scores"]
    assert theirs.inputs.keys() == tensors.keys()
    for name, (dtype, array) in tensors.items():
        received = tf.make_ndarray(theirs.inputs[name])
        assert theirs.inputs[name].dtype == dtype
        np.testing.assert_array_equal(received, array)

    # TensorFlow writes tensor_content for large and repeated fields for small tensors: both must be read.
    for name, (dtype, array) in tensors.items():
        theirs.inputs[name].CopyFrom(tf.make_tensor_proto(array, dtype=dtype, shape=array.shape))
    back = wire.PredictRequest.FromString(theirs.SerializeToString())
    assert back.model_spec == ours.model_spec
    for name, (_, array) in tensors.items():
        received = decode(back.inputs[name])
        assert received.shape == array.shape
        np.testing.assert_array_equal(received, array)
    assert predict_pb2.PredictRequest.FromString(back.SerializeToString()) == theirs


@settings(max_examples=100, deadline=None)
@given(typed=typed_arrays())
def test_repeated_fields_are_read(typed: tuple[int, npt.NDArray[Any]]) -> None:
    import tensorflow as tf

    dtype, array = typed
    proto = tf.make_tensor_proto(array, dtype=dtype, shape=array.shape)
    if proto.tensor_content:  # as Tensor::AsProtoField of TensorFlow Serving writes it
        values = array.ravel()
        field = REPEATED.get(dtype, "int_val")
        proto.ClearField("tensor_content")
        getattr(proto, field).extend((values.view(np.uint16) if dtype == wire.DT_HALF else values).tolist())
    received = decode(wire.TensorProto.FromString(proto.SerializeToString()))
    assert received.shape == array.shape
    np.testing.assert_array_equal(received, array)


def test_a_short_repeated_field_goes_on_with_its_last_value() -> None:
    import tensorflow as tf

    for values in ([], [1.5], [1.5, 2.5]):
        proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=values)
        proto.tensor_shape.dim.add(size=2)
        proto.tensor_shape.dim.add(size=2)
        received = decode(wire.TensorProto.FromString(proto.SerializeToString()))
        np.testing.assert_array_equal(received, tf.make_ndarray(proto))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (wire.TensorProto(dtype=wire.DT_FLOAT, float_val=[1, 2]), "holds 2 values, its shape needs 1"),
        (wire.TensorProto(dtype=wire.DT_INT64, tensor_content=bytes(16)), r"holds 2 values, its shape \(\) needs 1"),
        (wire.TensorProto(dtype=wire.DT_COMPLEX64), "type complex64 are not supported"),
        (wire.TensorProto(dtype=77), "dtype 77 are not supported"),  # type: ignore[arg-type]
    ],
)
def test_tensors_that_cannot_be_read(tensor: wire.TensorProto, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(tensor)


def test_metadata_and_status_replies() -> None:
    signatures = get_model_metadata_pb2.SignatureDefMap()
    info = meta_graph_pb2.TensorInfo(name="a:0", dtype=types_pb2.DT_STRING)
    info.tensor_shape.dim.add(size=-1)
    signatures.signature_def["recommend"].inputs["user_id"].CopyFrom(info)
    metadata = get_model_metadata_pb2.GetModelMetadataResponse()
    metadata.model_spec.version.value = 3
    metadata.metadata["signature_def"].Pack(signatures)
    ours = wire.GetModelMetadataResponse.FromString(metadata.SerializeToString())
    packed = ours.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    received = wire.SignatureDefMap.FromString(packed.value).signature_def["recommend"].inputs["user_id"]
    assert received.dtype == wire.DT_STRING
    assert [dim.size for dim in received.tensor_shape.dim] == [-1]
    assert ours.model_spec.version.value == 3

    status = get_model_status_pb2.GetModelStatusResponse()
    for name, number in get_model_status_pb2.ModelVersionStatus.State.items():
        status.model_version_status.add(version=number, state=name).status.error_message = name
    for version in wire.GetModelStatusResponse.FromString(status.SerializeToString()).model_version_status:
        assert wire.ModelVersionStatus.State.Name(version.state) == version.status.error_message
        assert version.version == version.state


def test_every_field_has_the_originals_number_and_type() -> None:
    originals = {
        "TensorProto": tensor_pb2.TensorProto,
        "TensorShapeProto": tensor_pb2.TensorProto().tensor_shape.__class__,
        "ModelSpec": predict_pb2.PredictRequest().model_spec.__class__,
        "PredictRequest": predict_pb2.PredictRequest,
        "PredictResponse": predict_pb2.PredictResponse,
        "TensorInfo": meta_graph_pb2.TensorInfo,
        "SignatureDef": meta_graph_pb2.SignatureDef,
        "SignatureDefMap": get_model_metadata_pb2.SignatureDefMap,
        "GetModelMetadataRequest": get_model_metadata_pb2.GetModelMetadataRequest,
        "GetModelMetadataResponse": get_model_metadata_pb2.GetModelMetadataResponse,
        "GetModelStatusRequest": get_model_status_pb2.GetModelStatusRequest,
        "GetModelStatusResponse": get_model_status_pb2.GetModelStatusResponse,
        "ModelVersionStatus": get_model_status_pb2.ModelVersionStatus,
    }
    for name, original in originals.items():
        for field in getattr(wire, name).DESCRIPTOR.fields:
            theirs = original.DESCRIPTOR.fields_by_number[field.number]
            assert (field.name, field.type, field.label) == (theirs.name, theirs.type, theirs.label), name
    for name, number in wire.DataType.items():
        assert types_pb2.DataType.Value(name) == number


IMPORTS = {
    "client": "import twotower_client; from twotower_client import wire_pb2 as wire",
    "tensorflow": "import tensorflow as tf; from tensorflow_serving.apis import predict_pb2",
}
USE_BOTH = """
ours = wire.PredictRequest(model_spec=wire.ModelSpec(name="m"))
ours.inputs["x"].CopyFrom(wire.TensorProto(dtype=wire.DT_FLOAT, float_val=[2.5]))
theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
assert theirs.model_spec.name == "m" and tf.make_ndarray(theirs.inputs["x"]) == 2.5
theirs.inputs["y"].CopyFrom(tf.make_tensor_proto([b"s"]))
back = wire.PredictRequest.FromString(theirs.SerializeToString())
assert list(back.inputs["y"].string_val) == [b"s"]
print("both")
"""


@pytest.mark.parametrize("order", [("client", "tensorflow"), ("tensorflow", "client")])
def test_both_live_in_one_process_in_either_import_order(order: tuple[str, str]) -> None:
    program = "\n".join([*(IMPORTS[name] for name in order), USE_BOTH])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "both", done.stderr[-2000:]
