"""The standard `grpc.health.v1.Health` service, whose watches end with the server."""

import asyncio

from grpc_health.v1 import health, health_pb2


class HealthService(health.aio.HealthServicer):  # type: ignore[misc]
    """Answers for the server as a whole, which is the empty service name."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[None]] = set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: object) -> None:  # noqa: N802
        """Streams the status, at once and at every change."""
        watch = asyncio.current_task()
        assert watch is not None
        self._watches.add(watch)
        try:
            await super().Watch(request, context)
        finally:
            self._watches.discard(watch)

    def end_watches(self) -> None:
        """Cancels every open watch: one lives as long as its client likes, and would hold up a shutdown."""
        for watch in list(self._watches):
            watch.cancel()
