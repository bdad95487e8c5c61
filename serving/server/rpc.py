"""What every RPC shares: errors become gRPC statuses, deadlines become milliseconds."""

import logging
from collections.abc import Callable
from typing import Any

import grpc

from twotower.serving.server.errors import ServingError, truncated

LOGGER = logging.getLogger(__name__)


def unary(
    answer: Callable[[Any, grpc.ServicerContext], Any], request_type: Any, response_type: Any
) -> grpc.RpcMethodHandler:
    """A method handler that answers one request message with one response message.

    A `ServingError` is sent with its status; any other exception is a fault of the server, logged and sent as INTERNAL.
    """

    def handle(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return answer(request, context)
        except ServingError as error:
            context.abort(error.code, truncated(error.message))
        except Exception as error:
            LOGGER.exception("a request failed inside the server")
            context.abort(grpc.StatusCode.INTERNAL, truncated(f"{type(error).__name__}: {error}"))

    return grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=request_type.FromString, response_serializer=response_type.SerializeToString
    )


def timeout_ms(context: grpc.ServicerContext) -> int | None:
    """Milliseconds left until the caller's deadline, at least 1; None without a deadline.

    Raises:
        ServingError: DEADLINE_EXCEEDED, the deadline passed while the request waited for a thread.
    """
    remaining = context.time_remaining()
    if remaining is None:
        return None
    if remaining <= 0:
        raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")
    # Longer than a RunOptions can say is as good as no deadline.
    milliseconds = max(1, int(remaining * 1000))
    return milliseconds if milliseconds < 2**31 else None
