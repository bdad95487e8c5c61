"""A real gRPC server with TensorFlow Serving's methods and scripted answers."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from wire_arrays import decode, encode

from twotower_client import wire_pb2 as wire

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
    """Speaks the three methods; answers every recommend with one item named after the user. Counts attempts.

    `labels` are version numbers by label; what names no version gets `version`.
    """

    def __init__(
        self, port: int = 0, *, address: str | None = None, credentials: grpc.ServerCredentials | None = None
    ) -> None:
        self.name, self.version = "m", 1
        self.labels: dict[str, int] = {}
        self.headers: list[dict[str, str]] = []
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
        where = address or f"localhost:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(where)
        else:
            self.port = self._server.add_secure_port(where, credentials)
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

    def _chosen(self, asked: wire.ModelSpec, context: grpc.ServicerContext, signature: str = "") -> wire.ModelSpec:
        """The version that is asked for, as TensorFlow Serving finds it."""
        version = asked.version.value if asked.HasField("version") else self.version
        if asked.version_label:
            if asked.version_label not in self.labels:
                words = f"Unrecognized servable version label: {asked.version_label}"
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, words)
            version = self.labels[asked.version_label]
        return wire.ModelSpec(name=self.name, version=wire.Int64Value(value=version), signature_name=signature)

    def _predict(self, request: wire.PredictRequest, context: grpc.ServicerContext) -> wire.PredictResponse:
        self.attempts["Predict"] += 1
        self.requests.append(request)
        self.headers.append({key: str(value) for key, value in context.invocation_metadata()})
        self.before_predict(context)
        name = request.model_spec.signature_name
        spec = self._chosen(request.model_spec, context, name)
        if set(request.inputs) != set(self.signatures[name]):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "input size does not match signature")
        reply = wire.PredictResponse(model_spec=spec)
        if self.outputs is not None:
            return wire.PredictResponse(model_spec=spec, outputs=self.outputs)
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
        spec = self._chosen(request.model_spec, context)
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
        return wire.GetModelMetadataResponse(model_spec=spec, metadata={"signature_def": packed})

    def _status(
        self, request: wire.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> wire.GetModelStatusResponse:
        self.attempts["GetModelStatus"] += 1
        if not self.states:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {self.name}")
        return wire.GetModelStatusResponse(
            model_version_status=[
                wire.ModelVersionStatus(
                    version=version, state=state, status=wire.StatusProto(error_code=5, error_message="no file")
                )
                for version, state in self.states
            ]
        )
