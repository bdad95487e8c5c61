"""The gRPC server: the two TensorFlow Serving services and the standard health service on one port."""

from concurrent.futures import ThreadPoolExecutor

import grpc
from grpc_health.v1 import health_pb2_grpc

from twotower.serving.server.errors import StartupError
from twotower.serving.server.health import HealthService
from twotower.serving.server.manager import ModelManager
from twotower.serving.server.model_service import ModelService
from twotower.serving.server.options import HOST
from twotower.serving.server.prediction_service import PredictionService

MAX_MESSAGE_BYTES = 2**31 - 1
# How long an open health watch may still hold up a shutdown: it is to hear of it.
WATCH_SECONDS = 0.5


class GrpcServer:
    """Serves a manager's models, healthy from the moment the port opens.

    Args:
        manager: with its first models loaded.
        port: TCP port on all interfaces; 0 takes a free one.
        threads: requests answered at once.

    Raises:
        StartupError: the port cannot be bound.
    """

    def __init__(self, manager: ModelManager, port: int, threads: int) -> None:
        self._server = grpc.server(
            ThreadPoolExecutor(threads, thread_name_prefix="rpc"),
            options=[
                # Without this a second server would silently share the port.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ],
        )
        self._health = HealthService()
        self._server.add_generic_rpc_handlers((PredictionService(manager).handler(), ModelService(manager).handler()))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            self.port: int = self._server.add_insecure_port(f"{HOST}:{port}")
        except RuntimeError as error:
            raise StartupError(f"port {port} cannot be bound on {HOST}: {error}") from error

    def start(self) -> None:
        """Opens the port."""
        self._health.serving()
        self._server.start()

    def stop(self, grace_seconds: float) -> None:
        """Turns NOT_SERVING, refuses new requests, and returns when those in flight are done or the grace is over."""
        self._health.enter_graceful_shutdown()
        stopped = self._server.stop(grace_seconds)
        if not stopped.wait(WATCH_SECONDS):
            self._health.end_watches()
            stopped.wait()
