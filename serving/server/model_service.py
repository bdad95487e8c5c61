"""`tensorflow.serving.ModelService`: GetModelStatus.

HandleReloadConfigRequest is not registered here, so gRPC itself answers it UNIMPLEMENTED.
"""

import grpc
from tensorflow_serving.apis import get_model_status_pb2

from twotower.serving.server.errors import invalid_argument
from twotower.serving.server.manager import ModelManager
from twotower.serving.server.rpc import unary

SERVICE_NAME = "tensorflow.serving.ModelService"


class ModelService:
    """Tells the state of the models of a manager."""

    def __init__(self, manager: ModelManager) -> None:
        self._manager = manager

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as `grpc.Server.add_generic_rpc_handlers` takes it."""
        status = get_model_status_pb2
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "GetModelStatus": unary(
                    self.get_model_status, status.GetModelStatusRequest, status.GetModelStatusResponse
                )
            },
        )

    def get_model_status(
        self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """The state of one version, or of all versions of a model, newest first."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in self._manager.statuses(request.model_spec):
            entry = response.model_version_status.add(version=status.version, state=status.state)
            entry.status.SetInParent()  # present even when it is OK
            if status.error is not None:
                entry.status.error_code = status.error.number
                entry.status.error_message = status.error.message
        return response
