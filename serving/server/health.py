"""The standard `grpc.health.v1.Health` service, whose watches can be ended so that they do not hold up a shutdown."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2


class HealthService(health.HealthServicer):  # type: ignore[misc]
    """Answers for the server as a whole, which is the empty service name.

    A `Watch` lives as long as its client likes, so watches are served outside the threads that answer requests.
    """

    def __init__(self) -> None:
        super().__init__(experimental_non_blocking=True, experimental_thread_pool=ThreadPoolExecutor(1, "health"))
        self._watches: set[grpc.ServicerContext] = set()

    def serving(self) -> None:
        """Says SERVING from now on."""
        self.set("", health_pb2.HealthCheckResponse.SERVING)

    def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext, send_response_callback: Any = None
    ) -> None:
        """Streams the status, at once and at every change."""
        self._watches.add(context)
        context.add_callback(lambda: self._watches.discard(context))
        super().Watch(request, context, send_response_callback)

    def end_watches(self) -> None:
        """Cancels every open watch."""
        for context in list(self._watches):
            context.cancel()
