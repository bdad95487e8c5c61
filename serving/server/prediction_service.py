"""`tensorflow.serving.PredictionService`: Predict, Classify, Regress, MultiInference and GetModelMetadata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy.typing as npt
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from twotower.serving.server.core import Call, Core, timeout_ms
from twotower.serving.server.errors import invalid_argument
from twotower.serving.server.examples import classify, model_of, multi_inference, regress
from twotower.serving.server.predict import aliases_of, inputs_of, response_of, signature_of
from twotower.serving.server.rpc import Rpcs, model_spec_of
from twotower.serving.server.servable import Servable

SERVICE_NAME = "tensorflow.serving.PredictionService"
SIGNATURE_DEF = "signature_def"


class PredictionService:
    """Answers about and from the models of a core."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def handler(self, rpcs: Rpcs) -> grpc.GenericRpcHandler:
        """The service as `grpc.aio.Server.add_generic_rpc_handlers` takes it."""

        def one_model(request: Any) -> str:
            return str(request.model_spec.name)

        def first_model(request: Any) -> str:
            return str(request.tasks[0].model_spec.name) if request.tasks else ""

        metadata_type = get_model_metadata_pb2.GetModelMetadataRequest
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Predict": rpcs.unary(self.predict, predict_pb2.PredictRequest, "Predict", one_model),
                "Classify": rpcs.unary(self.classify, classification_pb2.ClassificationRequest, "Classify", one_model),
                "Regress": rpcs.unary(self.regress, regression_pb2.RegressionRequest, "Regress", one_model),
                "MultiInference": rpcs.unary(
                    self.multi_inference, inference_pb2.MultiInferenceRequest, "MultiInference", first_model
                ),
                "GetModelMetadata": rpcs.unary(self.get_model_metadata, metadata_type),
            },
        )

    async def predict(self, request: predict_pb2.PredictRequest, size: int, deadline: float | None) -> bytes:
        """Runs a signature of a model."""
        spec = model_spec_of(request)
        log = self._core.log.wants(spec.name)

        def prepare(servable: Servable) -> Call:
            signature = signature_of(servable, request)
            inputs = inputs_of(signature, request)
            return Call(signature, inputs, aliases_of(signature, request.output_filter))

        def finish(servable: Servable, call: Call, outputs: Sequence[npt.NDArray[Any]]) -> bytes:
            response = response_of(servable, call.signature, call.aliases, outputs)
            if log is not None:
                self._core.log.add(log, servable.name, servable.version, "predict_log", request, response)
            return bytes(response.SerializeToString())

        return await self._core.predict(spec, size, deadline, prepare, finish)

    async def classify(
        self, request: classification_pb2.ClassificationRequest, size: int, deadline: float | None
    ) -> bytes:
        """Labels and scores of examples."""
        return await self._examples(request, size, deadline, classify, "classify_log")

    async def regress(self, request: regression_pb2.RegressionRequest, size: int, deadline: float | None) -> bytes:
        """Values of examples."""
        return await self._examples(request, size, deadline, regress, "regress_log")

    async def multi_inference(
        self, request: inference_pb2.MultiInferenceRequest, size: int, deadline: float | None
    ) -> bytes:
        """Classifications and regressions of the same examples."""
        return await self._run(model_of(request), request, size, deadline, multi_inference, "multi_inference_log")

    async def _examples(self, request: Any, size: int, deadline: float | None, answer: Any, kind: str) -> bytes:
        return await self._run(model_spec_of(request), request, size, deadline, answer, kind)

    async def _run(self, spec: Any, request: Any, size: int, deadline: float | None, answer: Any, kind: str) -> bytes:
        log = self._core.log.wants(spec.name)

        def job(servable: Servable) -> bytes:
            response = answer(servable, request, timeout_ms(deadline))
            if log is not None:
                self._core.log.add(log, servable.name, servable.version, kind, request, response)
            return bytes(response.SerializeToString())

        return await self._core.run(spec, size, job)

    async def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, size: int, deadline: float | None
    ) -> bytes:
        """The signatures of a model, as a packed `SignatureDefMap`."""
        return bytes(metadata_of(self._core, request).SerializeToString())


def metadata_of(
    core: Core, request: get_model_metadata_pb2.GetModelMetadataRequest
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a model, as a packed `SignatureDefMap`.

    Raises:
        ServingError: the request names no model or asks for something else.
    """
    spec = model_spec_of(request)
    if not request.metadata_field:
        raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise invalid_argument(f"Metadata field {field} is not supported")
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with core.manager.acquire(spec) as servable:
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature.definition)
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response
