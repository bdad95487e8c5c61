"""The standard `grpc.health.v1.Health` service, whose watches end with the server.

`grpc_health`'s own servicer keeps a watch open for as long as its client likes, which would hold up a shutdown.
"""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Status = health_pb2.HealthCheckResponse.ServingStatus


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers for the server as a whole, which is the empty service name: SERVING until `stop`."""

    def __init__(self) -> None:
        self._stopped = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> Any:  # noqa: N802
        """The status now."""
        if request.service:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"unknown service {request.service!r}")
        return health_pb2.HealthCheckResponse(status=self._status(request))

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext) -> None:  # noqa: N802
        """Streams the status, at once and when it changes."""
        await context.write(health_pb2.HealthCheckResponse(status=self._status(request)))
        await self._stopped.wait()
        if not request.service:
            await context.write(health_pb2.HealthCheckResponse(status=self._status(request)))

    def stop(self) -> None:
        """Says NOT_SERVING from now on, and ends every watch."""
        self._stopped.set()

    def _status(self, request: health_pb2.HealthCheckRequest) -> int:
        if request.service:
            return int(Status.SERVICE_UNKNOWN)
        return int(Status.NOT_SERVING if self._stopped.is_set() else Status.SERVING)
