"""`tensorflow.serving.PredictionService`: Predict and GetModelMetadata.

Methods that are not registered here (Classify, Regress, MultiInference) are answered UNIMPLEMENTED by gRPC itself.
"""

import grpc
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from twotower.serving.server.errors import invalid_argument
from twotower.serving.server.manager import ModelManager
from twotower.serving.server.predict import predict
from twotower.serving.server.rpc import timeout_ms, unary

SERVICE_NAME = "tensorflow.serving.PredictionService"
SIGNATURE_DEF = "signature_def"


class PredictionService:
    """Answers about and from the models of a manager."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as `grpc.Server.add_generic_rpc_handlers` takes it."""
        metadata = get_model_metadata_pb2
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "Predict": unary(self.predict, predict_pb2.PredictRequest, predict_pb2.PredictResponse),
                "GetModelMetadata": unary(
                    self.get_model_metadata, metadata.GetModelMetadataRequest, metadata.GetModelMetadataResponse
                ),
            },
        )

    def predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs a signature of a model."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        with self._manager.acquire(request.model_spec) as servable:
            return predict(servable, request, timeout_ms(context))

    def get_model_metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of a model, as a packed `SignatureDefMap`."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        if not request.metadata_field:
            raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self._manager.acquire(request.model_spec) as servable:
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            for name, signature in servable.signatures.items():
                signatures.signature_def[name].CopyFrom(signature)
        response.metadata[SIGNATURE_DEF].Pack(signatures)
        return response
