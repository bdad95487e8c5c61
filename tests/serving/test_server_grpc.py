"""The server over gRPC, in its own process: replies, and every error with its exact status and message."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import wrappers_pb2
from grpc_health.v1 import health_pb2
from server_harness import ServerProcess, State, predict_request, save_toy, times
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

# By a way of its C++ part that TF_CPP_MIN_LOG_LEVEL does not lead to.
SAID_BY_TENSORFLOW_2_20 = (
    "WARNING: All log messages before absl::InitializeLog()",
    "MLIR V1 optimization pass is not enabled",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    base = tmp_path_factory.mktemp("toy")
    for version in (1, 2):
        save_toy(base, version, warm_up=[times([1.0])])
    with ServerProcess(base) as process:
        yield process


@pytest.fixture
def prediction(server: ServerProcess) -> Any:
    return prediction_service_pb2_grpc.PredictionServiceStub(server.channel)


@pytest.fixture
def model(server: ServerProcess) -> Any:
    return model_service_pb2_grpc.ModelServiceStub(server.channel)


def test_readiness_is_one_line_and_the_log_holds_nothing_of_tensorflows(server: ServerProcess) -> None:
    assert server.ready_line == f"serving toy version 2 on 0.0.0.0:{server.port}"
    (line,) = (line for line in server.log if not any(sentence in line for sentence in SAID_BY_TENSORFLOW_2_20))
    assert "loaded toy version 2" in line
    assert "(1 warm-up requests)" in line


def test_predict_answers_with_all_outputs_in_repeated_fields(prediction: Any) -> None:
    reply = prediction.Predict(times([1.0, 2.5]), timeout=10)
    spec = model_pb2.ModelSpec(name="toy", version=wrappers_pb2.Int64Value(value=2), signature_name="serving_default")
    two = tensor_shape_pb2.TensorShapeProto(dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=2)])
    assert reply == predict_pb2.PredictResponse(
        model_spec=spec,
        outputs={
            "y": tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape=two, float_val=[2, 5]),
            "half": tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_shape=two, float_val=[0.5, 1.25]),
        },
    )


def test_predict_with_strings_a_scalar_and_a_lookup_table(prediction: Any) -> None:
    inputs = {"words": np.array([b"bread", b"caviar", b"apple"], object), "k": np.int32(2)}
    reply = prediction.Predict(predict_request(inputs, "lookup", version=2), timeout=10)
    assert reply.outputs["names"].string_val == [b"bread/1", b"caviar/-1"]
    assert reply.outputs["ids"].int64_val == [1, -1]
    assert reply.outputs["k"].int_val == [2]
    assert not reply.outputs["k"].tensor_shape.dim


def test_the_output_filter_chooses_outputs(prediction: Any) -> None:
    request = times([4.0])
    request.output_filter.append("half")
    assert dict(prediction.Predict(request, timeout=10).outputs).keys() == {"half"}


def test_messages_larger_than_grpcs_default_limit_pass_both_ways(prediction: Any) -> None:
    x = np.arange(2_000_000, dtype=np.float32)  # 8 MB; gRPC's default limit is 4 MiB
    reply = prediction.Predict(predict_request({"x": x}), timeout=30)
    np.testing.assert_array_equal(np.array(reply.outputs["y"].float_val, np.float32), 2 * x)


def without_spec() -> predict_pb2.PredictRequest:
    request = times([1.0])
    request.ClearField("model_spec")
    return request


def labelled() -> predict_pb2.PredictRequest:
    request = times([1.0])
    request.model_spec.version_label = "stable"
    return request


def unparsable() -> predict_pb2.PredictRequest:
    request = times([1.0])
    request.inputs["x"].tensor_content = b"123"
    return request


def filtered(*aliases: str) -> predict_pb2.PredictRequest:
    request = times([1.0])
    request.output_filter.extend(aliases)
    return request


@pytest.mark.parametrize(
    ("request_message", "code", "message"),
    [
        (without_spec(), "INVALID_ARGUMENT", "Missing ModelSpec"),
        (times([1.0], model=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
        (times([1.0], model="m"), "NOT_FOUND", "Servable not found for request: Latest(m)"),
        (times([1.0], model="m", version=9), "NOT_FOUND", "Servable not found for request: Specific(m, 9)"),
        (times([1.0], version=9), "NOT_FOUND", "Servable not found for request: Specific(toy, 9)"),
        (times([1.0], version=1), "NOT_FOUND", "Servable not found for request: Specific(toy, 1)"),
        (labelled(), "INVALID_ARGUMENT", "Unrecognized servable version label: stable"),
        (times([1.0], signature="s"), "FAILED_PRECONDITION", 'Serving signature key "s" not found.'),
        (
            predict_request({}),
            "INVALID_ARGUMENT",
            "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
        ),
        (
            predict_request({"x": np.float32(1), "b": 1, "a": 2}),
            "INVALID_ARGUMENT",
            "input size does not match signature: 3!=1 len({a,b,x}) != len({x}). Sent extra: {a,b}."
            " Missing but required: {}.",
        ),
        (
            predict_request({"z": np.float32(1)}),
            "INVALID_ARGUMENT",
            "Signature input alias: x(feed name: serving_default_x:0) not found in request and no default value"
            " provided. Inputs expected to be in the request {z}, or default input alias set: ",
        ),
        (unparsable(), "INVALID_ARGUMENT", "tensor parsing error: x"),
        (
            predict_request({"x": np.array([1.0])}),
            "INVALID_ARGUMENT",
            "Expects arg[0] to be float but double is provided",
        ),
        (
            filtered("y", "z"),
            "INVALID_ARGUMENT",
            "output tensor alias not found in signature: z Outputs expected to be in the set {half,y}.",
        ),
        (filtered("y", "y"), "INVALID_ARGUMENT", "duplicate output tensor alias: y"),
    ],
)
def test_a_wrong_request_is_refused_in_tensorflow_servings_words(
    prediction: Any, request_message: predict_pb2.PredictRequest, code: str, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        prediction.Predict(request_message, timeout=10)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode[code], message)


def test_an_assertion_in_the_graph_reaches_the_caller(prediction: Any) -> None:
    request = predict_request({"words": np.array([b"apple"], object), "k": np.int32(5)}, "lookup")
    with pytest.raises(grpc.RpcError) as raised:
        prediction.Predict(request, timeout=10)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert raised.value.details().startswith("assertion failed: [k must be below 4]")


def test_a_long_message_is_cut(prediction: Any) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        prediction.Predict(predict_request({"text": "x" * 5000}, "fail"), timeout=10)
    assert raised.value.details() == ("assertion failed: [" + "x" * 5000)[:1024] + "...TRUNCATED"


def test_the_callers_deadline_stops_the_graph(server: ServerProcess, prediction: Any) -> None:
    """The graph would wait for ever: were it not stopped, these requests would take all the threads there are."""
    request = predict_request({"x": np.float32(1)}, "wait")
    calls = [prediction.Predict.future(request, timeout=0.2) for _ in range(50)]
    assert {call.code() for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert server.multiply([3.0]) == [6.0]


def test_metadata_holds_every_signature(prediction: Any) -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=model_pb2.ModelSpec(name="toy"), metadata_field=["signature_def"]
    )
    reply = prediction.GetModelMetadata(request, timeout=10)
    assert (reply.model_spec.name, reply.model_spec.version.value) == ("toy", 2)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "lookup"} <= set(signatures.signature_def)
    lookup = signatures.signature_def["lookup"]
    assert lookup.inputs["words"].dtype == types_pb2.DT_STRING
    assert set(lookup.outputs) == {"ids", "names", "k"}


@pytest.mark.parametrize(
    ("name", "fields", "code", "message"),
    [
        (None, ["signature_def"], "INVALID_ARGUMENT", "Missing ModelSpec"),
        ("toy", [], "INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field"),
        ("toy", ["graph"], "INVALID_ARGUMENT", "Metadata field graph is not supported"),
        ("m", ["signature_def"], "NOT_FOUND", "Servable not found for request: Latest(m)"),
    ],
)
def test_a_wrong_metadata_request_is_refused(
    prediction: Any, name: str | None, fields: list[str], code: str, message: str
) -> None:
    spec = None if name is None else model_pb2.ModelSpec(name=name)
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=fields)
    with pytest.raises(grpc.RpcError) as raised:
        prediction.GetModelMetadata(request, timeout=10)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode[code], message)


def test_status_says_that_the_newest_version_is_available(server: ServerProcess, model: Any) -> None:
    assert server.states() == {2: State.AVAILABLE}
    spec = model_pb2.ModelSpec(name="toy", version=wrappers_pb2.Int64Value(value=2))
    reply = model.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(model_spec=spec), timeout=10)
    (entry,) = reply.model_version_status
    assert (entry.version, entry.status.error_code, entry.status.error_message) == (2, 0, "")


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        (None, "INVALID_ARGUMENT", "Missing ModelSpec"),
        (model_pb2.ModelSpec(name="m"), "NOT_FOUND", "Could not find any versions of model m"),
        (
            model_pb2.ModelSpec(name="toy", version=wrappers_pb2.Int64Value(value=9)),
            "NOT_FOUND",
            "Could not find version 9 of model toy",
        ),
    ],
)
def test_a_wrong_status_request_is_refused(
    model: Any, spec: model_pb2.ModelSpec | None, code: str, message: str
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        model.GetModelStatus(get_model_status_pb2.GetModelStatusRequest(model_spec=spec), timeout=10)
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode[code], message)


def test_the_health_service_says_serving(server: ServerProcess) -> None:
    assert server.health() == health_pb2.HealthCheckResponse.SERVING
