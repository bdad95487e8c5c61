"""What every RPC shares: reading the request, the token, errors as gRPC statuses, and what is counted."""

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import model_pb2

from twotower.serving.server.errors import ServingError, invalid_argument, truncated
from twotower.serving.server.metrics import Metrics

LOGGER = logging.getLogger(__name__)

Answer = Callable[[Any, int, float | None], Awaitable[bytes]]
_PREFIX = "Bearer "


def unreadable() -> ServingError:
    """The error of bytes that are not the message they should be."""
    return ServingError(grpc.StatusCode.INTERNAL, "Exception deserializing request!")


def model_spec_of(request: Any) -> model_pb2.ModelSpec:
    """The model spec of a request.

    Raises:
        ServingError: INVALID_ARGUMENT, it has none.
    """
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")
    return request.model_spec


class Token:
    """The bearer token that a request must carry.

    Args:
        secret: the token; empty asks for none.
    """

    def __init__(self, secret: str) -> None:
        self._expected = f"{_PREFIX}{secret}".encode() if secret else None

    def check(self, authorization: str | bytes | None) -> None:
        """Checks the value of a request's `authorization` header or metadata.

        Raises:
            ServingError: UNAUTHENTICATED, it is not there or wrong.
        """
        if self._expected is None:
            return
        given = authorization.encode() if isinstance(authorization, str) else authorization or b""
        if not hmac.compare_digest(given, self._expected):
            raise ServingError(
                grpc.StatusCode.UNAUTHENTICATED, "expected the server's token as metadata `authorization: Bearer TOKEN`"
            )

    @property
    def is_asked_for(self) -> bool:
        """Whether there is a token at all."""
        return self._expected is not None


class Rpcs:
    """Makes method handlers.

    Args:
        metrics: where requests are counted.
        token: that every request must carry.
    """

    def __init__(self, metrics: Metrics, token: Token) -> None:
        self._metrics = metrics
        self._token = token

    def unary(
        self, answer: Answer, request_type: Any, api: str | None = None, model_of: Callable[[Any], str] | None = None
    ) -> grpc.RpcMethodHandler:
        """A method handler that answers one request message with one response message.

        A `ServingError` is sent with its status; any other exception is a fault of the server, logged and sent as
        INTERNAL.

        Args:
            answer: takes the message, its bytes and its deadline, returns the serialized response.
            request_type: of the message.
            api: TensorFlow Serving's name of the method in its metrics; None counts nothing.
            model_of: the name of the model that a message is for.
        """
        metrics, token = self._metrics, self._token

        async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
            began = time.perf_counter()
            model, status = "", "OK"
            try:
                if token.is_asked_for:
                    token.check(dict(context.invocation_metadata() or ()).get("authorization"))
                try:
                    request = request_type.FromString(data)
                except DecodeError as error:
                    raise unreadable() from error
                if model_of is not None:
                    model = model_of(request)
                remaining = context.time_remaining()
                deadline = None if remaining is None else time.monotonic() + remaining
                return await answer(request, len(data), deadline)
            except ServingError as error:
                status = error.code.name
                failure = error
            except UnicodeDecodeError:  # the parser looks at a string only when it is used
                status = "INTERNAL"
                failure = unreadable()
            except Exception as error:
                LOGGER.exception("a request failed inside the server")
                status = "INTERNAL"
                failure = ServingError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")
            finally:
                if api is not None:
                    metrics.request_count.add(model, status)
                    metrics.request_latency.observe(model, api, "GRPC", seconds=time.perf_counter() - began)
            await context.abort(failure.code, truncated(failure.message))
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(handle)
