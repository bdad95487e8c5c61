"""`tensorflow.serving.ModelService`: GetModelStatus and HandleReloadConfigRequest."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2

from twotower.serving.server.errors import invalid_argument
from twotower.serving.server.manager import ModelManager
from twotower.serving.server.rpc import Rpcs, model_spec_of

SERVICE_NAME = "tensorflow.serving.ModelService"


class ModelService:
    """Tells the state of the models of a manager, and changes which they are.

    Args:
        manager: of the models.
        reload: serves a `ModelServerConfig` instead of the present one, and returns when that is done.
    """

    def __init__(self, manager: ModelManager, reload: Callable[[Any], Awaitable[None]]) -> None:
        self._manager = manager
        self._reload = reload

    def handler(self, rpcs: Rpcs) -> grpc.GenericRpcHandler:
        """The service as `grpc.aio.Server.add_generic_rpc_handlers` takes it."""
        return grpc.method_handlers_generic_handler(
            SERVICE_NAME,
            {
                "GetModelStatus": rpcs.unary(self.get_model_status, get_model_status_pb2.GetModelStatusRequest),
                "HandleReloadConfigRequest": rpcs.unary(
                    self.handle_reload_config, model_management_pb2.ReloadConfigRequest
                ),
            },
        )

    async def get_model_status(
        self, request: get_model_status_pb2.GetModelStatusRequest, size: int, deadline: float | None
    ) -> bytes:
        """The state of one version, or of all versions of a model, newest first."""
        return bytes(status_of(self._manager, request).SerializeToString())

    async def handle_reload_config(
        self, request: model_management_pb2.ReloadConfigRequest, size: int, deadline: float | None
    ) -> bytes:
        """Serves the request's models and no others."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently"
                " supported"
            )
        await self._reload(request.config)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()  # present even when it is OK
        return bytes(response.SerializeToString())


def status_of(
    manager: ModelManager, request: get_model_status_pb2.GetModelStatusRequest
) -> get_model_status_pb2.GetModelStatusResponse:
    """The state of one version, or of all versions of a model, newest first.

    Raises:
        ServingError: the request names no model, or an unknown model, version or label.
    """
    spec = model_spec_of(request)
    response = get_model_status_pb2.GetModelStatusResponse()
    for status in manager.statuses(spec):
        entry = response.model_version_status.add(version=status.version, state=status.state)
        entry.status.SetInParent()  # present even when it is OK
        if status.error is not None:
            entry.status.error_code = status.error.number
            entry.status.error_message = status.error.message
    return response
