"""The gRPC server: TensorFlow Serving's services, health and reflection, on a port and a Unix socket."""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from twotower.serving.server import model_service, prediction_service
from twotower.serving.server.core import Core
from twotower.serving.server.errors import StartupError
from twotower.serving.server.health import HealthService
from twotower.serving.server.options import HOST
from twotower.serving.server.rpc import Rpcs, Token

MAX_MESSAGE_BYTES = 2**31 - 1
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class GrpcServer:
    """Serves a core, healthy from the moment the port opens.

    Args:
        core: answers.
        models: the service that tells and changes which models are served.
        token: that every request must carry, but health checks.
        max_concurrent: RPCs of any kind; one more is refused before its message is looked at.
        with_health: whether the health service is there.
    """

    def __init__(
        self, core: Core, models: model_service.ModelService, token: Token, max_concurrent: int, with_health: bool
    ) -> None:
        self._server = grpc.aio.server(
            options=[
                # Without this a second server would silently share the port.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ],
            maximum_concurrent_rpcs=max_concurrent,
        )
        rpcs = Rpcs(core.metrics, token)
        services = prediction_service.PredictionService(core)
        self._server.add_generic_rpc_handlers((services.handler(rpcs), models.handler(rpcs)))
        self._health = HealthService()
        names = [prediction_service.SERVICE_NAME, model_service.SERVICE_NAME, reflection.SERVICE_NAME]
        if with_health:
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
            names.append(HEALTH)
        reflection.enable_server_reflection(names, self._server)

    def listen(self, address: str, ssl_config: Any = None) -> int:
        """Binds a port (`HOST:port`) or a Unix socket (`unix:path`); returns the port.

        Args:
            address: what to bind.
            ssl_config: `SSLConfig`; None serves without TLS.

        Raises:
            StartupError: it cannot be bound, or the keys cannot be used.
        """
        try:
            if ssl_config is None:
                return int(self._server.add_insecure_port(address))
            credentials = grpc.ssl_server_credentials(
                [(ssl_config.server_key.encode(), ssl_config.server_cert.encode())],
                root_certificates=ssl_config.custom_ca.encode() or None,
                require_client_auth=ssl_config.client_verify,
            )
            return int(self._server.add_secure_port(address, credentials))
        except (RuntimeError, ValueError) as error:
            what = f"{address} cannot be bound" + (", or the keys of --ssl_config_file are wrong" if ssl_config else "")
            raise StartupError(f"{what}: {error}") from error

    def listen_on_port(self, port: int, ssl_config: Any = None) -> int:
        """Binds a TCP port on all interfaces, 0 for a free one; returns it."""
        return self.listen(f"{HOST}:{port}", ssl_config)

    async def start(self) -> None:
        """Opens what was bound."""
        await self._server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Turns NOT_SERVING, refuses new requests, and returns when those in flight are done or the grace is over."""
        self._health.stop()
        await self._server.stop(grace_seconds)
