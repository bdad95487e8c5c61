"""Deadlines, retries, error types, the metadata cache and threads, against a real gRPC server with scripted answers."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from twotower_client import (
    ClientClosedError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    Recommender,
    RecommenderError,
    ServerError,
    UnavailableError,
    UnknownFeatureError,
)
from twotower_client import wire_pb2 as wire
from twotower_client.tensors import decode, encode

Inputs = dict[str, tuple[int, tuple[int, ...]]]
QUERY: Inputs = {
    "user_id": (wire.DT_STRING, (-1,)),
    "user_age": (wire.DT_STRING, (-1,)),
    "history_item_ids": (wire.DT_STRING, (-1, -1)),
    "history_times": (wire.DT_INT64, (-1, -1)),
    "time": (wire.DT_INT64, (-1,)),
}
LISTS: Inputs = {**QUERY, "exclude_item_ids": (wire.DT_STRING, (-1, -1)), "k": (wire.DT_INT32, ())}


class ScriptedServer:
    """Speaks the three methods; answers every recommend with one item named after the user. Counts attempts."""

    def __init__(self, port: int = 0) -> None:
        self.name, self.version = "m", 1
        self.signatures: dict[str, Inputs] = {"recommend": LISTS, "embed_query": QUERY}
        self.attempts: Counter[str] = Counter()
        self.requests: list[wire.PredictRequest] = []
        self.before_predict: Callable[[grpc.ServicerContext], None] = lambda context: None
        self.states = [(1, wire.ModelVersionStatus.AVAILABLE)]
        self.dimension = 4
        self.outputs: dict[str, wire.TensorProto] | None = None
        self._server = grpc.server(ThreadPoolExecutor(8))
        self._server.add_generic_rpc_handlers(
            (
                self._service("PredictionService", Predict=self._predict, GetModelMetadata=self._metadata),
                self._service("ModelService", GetModelStatus=self._status),
            )
        )
        self.port = self._server.add_insecure_port(f"localhost:{port}")
        self._server.start()

    @property
    def target(self) -> str:
        return f"localhost:{self.port}"

    def stop(self) -> None:
        self._server.stop(grace=None).wait()

    @staticmethod
    def _service(service: str, **methods: Callable[..., object]) -> grpc.GenericRpcHandler:
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=getattr(wire, f"{name}Request").FromString,
                response_serializer=getattr(wire, f"{name}Response").SerializeToString,
            )
            for name, method in methods.items()
        }
        return grpc.method_handlers_generic_handler(f"tensorflow.serving.{service}", handlers)

    def _spec(self, signature: str = "") -> wire.ModelSpec:
        return wire.ModelSpec(name=self.name, version=wire.Int64Value(value=self.version), signature_name=signature)

    def _predict(self, request: wire.PredictRequest, context: grpc.ServicerContext) -> wire.PredictResponse:
        self.attempts["Predict"] += 1
        self.requests.append(request)
        self.before_predict(context)
        name = request.model_spec.signature_name
        if set(request.inputs) != set(self.signatures[name]):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "input size does not match signature")
        reply = wire.PredictResponse(model_spec=self._spec(name))
        if self.outputs is not None:
            return wire.PredictResponse(model_spec=self._spec(name), outputs=self.outputs)
        if name == "embed_query":
            vector = np.ones((1, self.dimension), np.float32)
            reply.outputs["embedding"].CopyFrom(encode(vector, wire.DT_FLOAT))
            return reply
        users = decode(request.inputs["user_id"])
        ids = np.array([[b"for-" + user, b""] for user in users], dtype=object)
        scores = np.tile(np.array([0.5, -np.inf], np.float32), (len(users), 1))
        reply.outputs["item_ids"].CopyFrom(encode(ids, wire.DT_STRING))
        for output in ("scores", "score_bought"):  # repeated fields, as TensorFlow Serving answers
            tensor = reply.outputs[output]
            tensor.CopyFrom(wire.TensorProto(dtype=wire.DT_FLOAT, float_val=scores.ravel().tolist()))
            for size in scores.shape:
                tensor.tensor_shape.dim.add(size=size)
        return reply

    def _metadata(
        self, request: wire.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> wire.GetModelMetadataResponse:
        self.attempts["GetModelMetadata"] += 1
        if request.model_spec.name != self.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request.model_spec.name}")
        signatures = wire.SignatureDefMap()
        for name, inputs in self.signatures.items():
            for key, (dtype, shape) in inputs.items():
                info = signatures.signature_def[name].inputs[key]
                info.CopyFrom(wire.TensorInfo(name=f"{key}:0", dtype=dtype))  # type: ignore[arg-type]
                for size in shape:
                    info.tensor_shape.dim.add(size=size)
        packed = wire.Packed(
            type_url="type.googleapis.com/tensorflow.serving.SignatureDefMap", value=signatures.SerializeToString()
        )
        return wire.GetModelMetadataResponse(model_spec=self._spec(), metadata={"signature_def": packed})

    def _status(
        self, request: wire.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> wire.GetModelStatusResponse:
        self.attempts["GetModelStatus"] += 1
        if not self.states:
            context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model m")
        return wire.GetModelStatusResponse(
            model_version_status=[
                wire.ModelVersionStatus(
                    version=version, state=state, status=wire.StatusProto(error_code=5, error_message="no file")
                )
                for version, state in self.states
            ]
        )


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.stop()


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Recommender]:
    with Recommender(server.target, model_name="m", timeout=5.0) as recommender:
        yield recommender


def abort_with(code: grpc.StatusCode) -> Callable[[grpc.ServicerContext], None]:
    return lambda context: context.abort(code, f"because of {code.name}")


def test_padding_is_stripped_and_task_scores_are_read_from_repeated_fields(client: Recommender) -> None:
    result = client.recommend("7", k=2)
    assert [(item.item_id, item.score, dict(item.scores)) for item in result] == [("for-7", 0.5, {"bought": 0.5})]
    assert result.model_version == 1


def test_inputs_left_out_are_filled_in(client: Recommender, server: ScriptedServer) -> None:
    client.recommend("7", k=3)
    sent = {name: decode(tensor) for name, tensor in server.requests[0].inputs.items()}
    assert sent.keys() == LISTS.keys()
    assert sent["user_age"].tolist() == [b""]
    assert sent["time"].tolist() == [0]
    assert sent["history_item_ids"].shape == sent["history_times"].shape == sent["exclude_item_ids"].shape == (1, 0)
    assert sent["k"].shape == ()
    assert sent["k"].dtype == np.int32
    assert sent["k"] == 3


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.FAILED_PRECONDITION, InvalidRequestError),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, OverloadedError),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError),
        (grpc.StatusCode.PERMISSION_DENIED, ServerError),
    ],
)
def test_each_status_has_its_error_and_is_sent_once(
    client: Recommender, server: ScriptedServer, code: grpc.StatusCode, error: type[RecommenderError]
) -> None:
    server.before_predict = abort_with(code)
    with pytest.raises(error) as caught:
        client.recommend("7")
    assert type(caught.value) is error
    assert caught.value.code is code
    assert caught.value.message == f"because of {code.name}"
    assert server.attempts["Predict"] == 1


def test_unavailable_is_retried_to_the_limit(client: Recommender, server: ScriptedServer) -> None:
    server.before_predict = abort_with(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(UnavailableError, match="because of UNAVAILABLE"):
        client.recommend("7")
    assert server.attempts["Predict"] == 4


def test_unavailable_that_passes_is_not_seen_by_the_caller(client: Recommender, server: ScriptedServer) -> None:
    def unavailable_twice(context: grpc.ServicerContext) -> None:
        if server.attempts["Predict"] <= 2:
            context.abort(grpc.StatusCode.UNAVAILABLE, "queue full")

    server.before_predict = unavailable_twice
    assert client.recommend("7").items[0].item_id == "for-7"
    assert server.attempts["Predict"] == 3


def test_deadline_of_the_call_overrides_the_default(client: Recommender, server: ScriptedServer) -> None:
    client.recommend("7")
    server.before_predict = lambda context: time.sleep(1.5)
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        client.recommend("7", timeout=0.2)
    assert time.monotonic() - start < 1.2
    assert client.recommend("7").items  # 5 s, the client's own


def test_deadline_covers_retries(client: Recommender, server: ScriptedServer) -> None:
    def slowly_unavailable(context: grpc.ServicerContext) -> None:
        time.sleep(0.4)
        context.abort(grpc.StatusCode.UNAVAILABLE, "queue full")

    server.before_predict = slowly_unavailable
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        client.recommend("7", timeout=0.6)
    assert time.monotonic() - start < 1.2


def test_metadata_is_read_once(client: Recommender, server: ScriptedServer) -> None:
    for _ in range(5):
        client.recommend("7")
    client.embed_query("7")
    assert server.attempts["GetModelMetadata"] == 1


def test_new_version_in_a_reply_refreshes_the_signatures(client: Recommender, server: ScriptedServer) -> None:
    client.recommend("7")
    server.version = 2
    assert client.recommend("7").model_version == 2
    assert server.attempts["GetModelMetadata"] == 1
    server.signatures["recommend"] = {**LISTS, "context_store_id": (wire.DT_STRING, (-1,))}
    client.recommend("7")
    assert server.attempts["GetModelMetadata"] == 2
    assert server.attempts["Predict"] == 3  # asked before the third, not after a refusal
    assert decode(server.requests[-1].inputs["context_store_id"]).tolist() == [b""]


def test_request_refused_by_a_new_version_is_rebuilt_once(client: Recommender, server: ScriptedServer) -> None:
    client.recommend("7")
    server.version = 2
    server.signatures["recommend"] = {**LISTS, "user_income": (wire.DT_FLOAT, (-1,))}
    assert client.recommend("7").model_version == 2
    assert server.attempts["Predict"] == 3
    assert np.isnan(decode(server.requests[-1].inputs["user_income"])).all()


def test_feature_that_only_a_new_version_knows_is_found(client: Recommender, server: ScriptedServer) -> None:
    client.recommend("7")
    server.version = 2
    server.signatures["recommend"] = {**LISTS, "user_income": (wire.DT_FLOAT, (-1,))}
    client.recommend("7", user={"income": 3.5})
    assert decode(server.requests[-1].inputs["user_income"]).tolist() == [3.5]
    assert server.attempts["Predict"] == 2


def test_unknown_feature_sends_no_predict(client: Recommender, server: ScriptedServer) -> None:
    with pytest.raises(UnknownFeatureError, match=r"unknown user feature 'agee'; did you mean 'age'\?"):
        client.recommend("7", user={"agee": "25-34"})
    assert server.attempts["Predict"] == 0


def test_missing_signature_and_missing_model(client: Recommender, server: ScriptedServer) -> None:
    with pytest.raises(InvalidRequestError, match="has no signature 'rank'; it has: embed_query, recommend"):
        client.rank("7", candidates=["a"])
    with Recommender(server.target, model_name="other") as other, pytest.raises(NotFoundError, match="other"):
        other.recommend("7")


@pytest.mark.parametrize("k", [0, -1, True, 1.5, "3"])
def test_bad_k_is_refused(client: Recommender, server: ScriptedServer, k: int) -> None:
    with pytest.raises(InvalidRequestError, match="k: expected a whole number"):
        client.recommend("7", k=k)
    assert not server.attempts


def test_no_queries_make_no_request(client: Recommender, server: ScriptedServer) -> None:
    assert client.recommend_many([]) == []
    assert not server.attempts


ONE_ID = encode(np.array([[b"a"]], dtype=object), wire.DT_STRING)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "no output 'item_ids', it has: none"),
        ({"item_ids": ONE_ID}, "no output 'scores', it has: item_ids"),
        (
            {"item_ids": ONE_ID, "scores": encode(np.zeros((1, 2)), wire.DT_FLOAT)},
            r"'scores' has shape \(1, 2\), expected \(1, 1\)",
        ),
        (
            {"item_ids": wire.TensorProto(dtype=wire.DT_VARIANT)},
            "'item_ids': tensors of type variant are not supported",
        ),
    ],
)
def test_reply_that_breaks_the_contract_is_a_server_error(
    client: Recommender, server: ScriptedServer, outputs: dict[str, wire.TensorProto], message: str
) -> None:
    server.outputs = outputs
    with pytest.raises(ServerError, match=rf"reply of 'm' version 1, signature 'recommend': .*{message}"):
        client.recommend("7")


def test_column_that_the_signature_does_not_take_is_refused(client: Recommender, server: ScriptedServer) -> None:
    server.signatures["embed_query"] = {"user_id": (wire.DT_STRING, (-1,))}
    assert client.embed_query("7").values.tolist() == [1.0] * 4  # nothing is lost: history and time are empty
    with pytest.raises(InvalidRequestError, match="'embed_query' takes no 'history_item_ids'"):
        client.embed_query("7", history=[("a", 1)])


def test_reply_larger_than_grpcs_default_limit(client: Recommender, server: ScriptedServer) -> None:
    server.dimension = 3_000_000  # 12 MB
    assert client.embed_query("7").values.sum() == 3_000_000


def test_threads_share_a_client(client: Recommender, server: ScriptedServer) -> None:
    def own_item(user: int) -> bool:
        return client.recommend(str(user)).items[0].item_id == f"for-{user}"

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(own_item, range(200)))
    assert server.attempts["GetModelMetadata"] == 1


def test_use_after_close(client: Recommender) -> None:
    client.recommend("7")
    client.close()
    client.close()
    calls: list[Callable[[], object]] = [
        lambda: client.recommend("7"),
        lambda: client.recommend_many([]),
        client.status,
        lambda: client.wait_until_ready(1.0),
    ]
    for call in calls:
        with pytest.raises(ClientClosedError, match="closed"):
            call()


def test_close_during_a_call(client: Recommender, server: ScriptedServer) -> None:
    client.recommend("7")
    entered = threading.Event()

    def enter_and_stay(context: grpc.ServicerContext) -> None:
        entered.set()
        time.sleep(0.5)

    server.before_predict = enter_and_stay
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(client.recommend, "7")
        assert entered.wait(5)
        client.close()
        with pytest.raises(ClientClosedError):
            pending.result(5)


def test_status_and_readiness(client: Recommender, server: ScriptedServer) -> None:
    server.states = [(1, wire.ModelVersionStatus.LOADING), (2, wire.ModelVersionStatus.END)]
    states = client.status()
    assert [(s.version, s.state, s.error_code, s.error_message) for s in states] == [
        (1, "LOADING", 5, "no file"),
        (2, "END", 5, "no file"),
    ]
    with pytest.raises(DeadlineExceededError, match="seen last: version 1 LOADING, version 2 END"):
        client.wait_until_ready(0.3)
    server.states = []
    with pytest.raises(DeadlineExceededError, match="Could not find any versions"):
        client.wait_until_ready(0.3)

    def become_available() -> None:
        server.states = [(2, wire.ModelVersionStatus.AVAILABLE)]

    timer = threading.Timer(0.3, become_available)
    timer.start()
    assert [state.version for state in client.wait_until_ready(10.0)] == [2]
    timer.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def test_nothing_listening() -> None:
    port = free_port()
    with Recommender(f"localhost:{port}", "m") as client:
        with pytest.raises(UnavailableError):
            client.recommend("7")
        with pytest.raises(DeadlineExceededError, match=r"not available within 0\.2 s"):
            client.wait_until_ready(0.2)


def test_server_that_starts_later_and_restarts() -> None:
    port = free_port()
    servers: list[ScriptedServer] = []
    timer = threading.Timer(0.5, lambda: servers.append(ScriptedServer(port)))
    timer.start()
    with Recommender(f"localhost:{port}", "m", timeout=5.0) as client:
        client.wait_until_ready(20.0)
        timer.join()
        assert client.recommend("7").items
        servers[0].stop()
        servers.append(ScriptedServer(port))
        client.wait_until_ready(20.0)
        assert client.recommend("8").items[0].item_id == "for-8"
        assert servers[1].attempts["Predict"] == 1
    servers[1].stop()
