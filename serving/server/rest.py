"""TensorFlow Serving's REST API, and the page that Prometheus reads."""

from __future__ import annotations

import inspect
import logging
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import grpc
import numpy.typing as npt
from aiohttp import web
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from twotower.serving.server import rest_json, tensors
from twotower.serving.server.core import QUICK_BYTES, Call, Core, timeout_ms
from twotower.serving.server.errors import ServingError, StartupError, invalid_argument, truncated
from twotower.serving.server.examples import classify, regress
from twotower.serving.server.model_service import status_of
from twotower.serving.server.options import HOST
from twotower.serving.server.predict import DEFAULT_SIGNATURE, response_of
from twotower.serving.server.prediction_service import SIGNATURE_DEF, metadata_of
from twotower.serving.server.rpc import Token
from twotower.serving.server.servable import Servable

LOGGER = logging.getLogger(__name__)

MAX_BODY_BYTES = 2**31 - 1
_INT64_MAX = 2**63 - 1
# Protobuf 5 has another name for it.
_OLD_NAME, _NEW_NAME = "including_default_value_fields", "always_print_fields_with_no_presence"
_KNOWN_NAMES = inspect.signature(json_format.MessageToJson).parameters
_PRINT_DEFAULTS: dict[str, Any] = {_OLD_NAME if _OLD_NAME in _KNOWN_NAMES else _NEW_NAME: True}
_WHICH = r"(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_PREDICTION = re.compile(rf"/v1/models/([^/:]+){_WHICH}:(classify|regress|predict)", re.IGNORECASE)
_STATUS = re.compile(rf"/v1/models(?:/([^/:]+))?{_WHICH}(?:/(metadata))?", re.IGNORECASE)
_API_NAMES = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}
_CODE = grpc.StatusCode
_HTTP_STATUS = {
    _CODE.OK: 200,
    _CODE.INVALID_ARGUMENT: 400,
    _CODE.FAILED_PRECONDITION: 400,
    _CODE.OUT_OF_RANGE: 400,
    _CODE.UNAUTHENTICATED: 401,
    _CODE.PERMISSION_DENIED: 403,
    _CODE.NOT_FOUND: 404,
    _CODE.ALREADY_EXISTS: 409,
    _CODE.ABORTED: 409,
    _CODE.RESOURCE_EXHAUSTED: 429,
    _CODE.CANCELLED: 499,
    _CODE.UNIMPLEMENTED: 501,
    _CODE.UNAVAILABLE: 503,
    _CODE.DEADLINE_EXCEEDED: 504,
}
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}


class RestServer:
    """Serves a core over HTTP/1.1.

    Args:
        core: answers.
        token: that every request must carry, but those for the metrics.
        timeout_seconds: until a request is answered 504.
        metrics_path: of Prometheus's page; None serves none.
        cors: whether scripts of other origins may read the replies.
        grace_seconds: how long requests in flight may take to finish at a stop.
    """

    def __init__(
        self,
        core: Core,
        token: Token,
        timeout_seconds: float,
        metrics_path: str | None,
        cors: bool,
        grace_seconds: float,
    ) -> None:
        self._core = core
        self._token = token
        self._timeout_seconds = timeout_seconds
        self._metrics_path = metrics_path
        self._headers = _CORS if cors else {}
        server = web.Server(self._handle, access_log=None)
        self._runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=grace_seconds)

    async def start(self, port: int) -> None:
        """Opens the port on all interfaces.

        Raises:
            StartupError: it cannot be bound.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, HOST, port).start()
        except OSError as error:
            raise StartupError(f"REST port {port} cannot be bound on {HOST}: {error.strerror}") from error

    async def stop(self) -> None:
        """Refuses new requests; returns when those in flight are done or the grace is over."""
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        if request.path == self._metrics_path:
            return web.Response(text=self._core.metrics.page(), content_type="text/plain")
        try:
            self._token.check(request.headers.get("Authorization"))
            body = await self._answer(request)
            return self._reply(200, body)
        except ServingError as error:
            return self._reply(_HTTP_STATUS.get(error.code, 500), rest_json.error_body(truncated(error.message)))
        except Exception as error:
            LOGGER.exception("a request failed inside the server")
            return self._reply(500, rest_json.error_body(f"{type(error).__name__}: {error}"))

    def _reply(self, status: int, body: bytes) -> web.Response:
        return web.Response(status=status, body=body, content_type="application/json", headers=self._headers)

    async def _answer(self, request: web.BaseRequest) -> bytes:
        path = request.rel_url.raw_path
        if not path.lower().startswith("/v1/"):
            raise ServingError(_CODE.NOT_FOUND, f"Not found: {request.method} {path}")
        if request.method == "OPTIONS" and self._headers:
            return b""
        if request.method == "POST" and (match := _PREDICTION.fullmatch(path)):
            return await self._prediction(match, await _body(request))
        if request.method == "GET" and (match := _STATUS.fullmatch(path)):
            if not match[1]:
                raise invalid_argument("Missing model name in request.")
            spec = _spec(match)
            if match[4]:
                return self._metadata(spec)
            return _as_json(status_of(self._core.manager, get_model_status_pb2.GetModelStatusRequest(model_spec=spec)))
        raise invalid_argument(f"Malformed request: {request.method} {path}")

    def _metadata(self, spec: model_pb2.ModelSpec) -> bytes:
        request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=[SIGNATURE_DEF])
        return _as_json(metadata_of(self._core, request))

    async def _prediction(self, match: re.Match[str], body: bytes) -> bytes:
        spec = _spec(match)
        method = match[4].lower()
        deadline = time.monotonic() + self._timeout_seconds
        metrics = self._core.metrics
        began = time.perf_counter()
        status = "OK"
        try:
            if method == "predict":
                return await self._predict(spec, body, deadline)
            return await self._examples(spec, method, body, deadline)
        except ServingError as error:
            status = error.code.name
            raise
        except BaseException:
            status = "INTERNAL"
            raise
        finally:
            metrics.request_count.add(spec.name, status)
            metrics.request_latency.observe(spec.name, _API_NAMES[method], "REST", seconds=time.perf_counter() - began)

    async def _predict(self, spec: model_pb2.ModelSpec, body: bytes, deadline: float) -> bytes:
        log = self._core.log.wants(spec.name)
        as_rows = False
        document = None
        if len(body) <= QUICK_BYTES:
            # Whether the request is a quick one depends on its signature, which only the body names.
            document = rest_json.parse(body)
            spec.signature_name = rest_json.signature_name(document)

        def prepare(servable: Servable) -> Call:
            nonlocal as_rows
            asked = rest_json.parse(body) if document is None else document
            name = rest_json.signature_name(asked) or DEFAULT_SIGNATURE
            signature = servable.signatures.get(name)
            if signature is None:
                raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
            infos = {alias: signature.definition.inputs[alias] for alias in signature.inputs}
            inputs, as_rows = rest_json.predict_inputs(asked, infos)
            return Call(signature, inputs, signature.aliases)

        def finish(servable: Servable, call: Call, outputs: Sequence[npt.NDArray[Any]]) -> bytes:
            if log is not None:
                request = predict_pb2.PredictRequest(model_spec=spec)
                request.model_spec.signature_name = call.signature.name
                for alias, array in call.inputs.items():
                    tensors.encode_into(request.inputs[alias], array)
                response = response_of(servable, call.signature, call.aliases, outputs)
                self._core.log.add(log, servable.name, servable.version, "predict_log", request, response)
            return rest_json.predictions(call.aliases, outputs, as_rows)

        return await self._core.predict(spec, len(body), deadline, prepare, finish)

    async def _examples(self, spec: model_pb2.ModelSpec, method: str, body: bytes, deadline: float) -> bytes:
        log = self._core.log.wants(spec.name)

        def job(servable: Servable) -> bytes:
            document = rest_json.parse(body)
            spec.signature_name = rest_json.signature_name(document)
            given = rest_json.examples_input(document)
            request: Any
            response: Any
            if method == "classify":
                request = classification_pb2.ClassificationRequest(model_spec=spec, input=given)
                response = classify(servable, request, timeout_ms(deadline))
                reply = rest_json.classifications(response.result)
            else:
                request = regression_pb2.RegressionRequest(model_spec=spec, input=given)
                response = regress(servable, request, timeout_ms(deadline))
                reply = rest_json.regressions(response.result)
            if log is not None:
                self._core.log.add(log, servable.name, servable.version, f"{method}_log", request, response)
            return reply

        return await self._core.run(spec, len(body), job)


async def _body(request: web.BaseRequest) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise ServingError(_CODE.RESOURCE_EXHAUSTED, f"the request is larger than {MAX_BODY_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _spec(match: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=unquote(match[1]))
    if match[2]:
        version = int(match[2][:20])
        if version > _INT64_MAX:
            raise invalid_argument(f"Failed to convert version: {match[2]} to numeric.")
        spec.version.value = version
    elif match[3]:
        spec.version_label = unquote(match[3])
    return spec


def _as_json(message: Any) -> bytes:
    return json_format.MessageToJson(message, preserving_proto_field_name=True, **_PRINT_DEFAULTS).encode()
