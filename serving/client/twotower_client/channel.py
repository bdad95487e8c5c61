"""One gRPC channel to the model servers, and the three methods that the client calls on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc

from . import wire_pb2 as wire
from .errors import ClientClosedError, from_status

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

#: Replies and requests up to 256 MiB; gRPC's own default for replies is 4 MiB, about 16,000 embeddings of 64 floats.
MAX_MESSAGE_BYTES = 256 * 1024 * 1024

#: Only UNAVAILABLE is sent again: the server did not take the request, and all calls here are reads.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": PREDICTION_SERVICE}, {"service": MODEL_SERVICE}],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # When more than about one call in ten fails, retries stop until it is fewer: no storm on a struggling server.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
}

_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Servers count pings more frequent than every 300 s as abuse.
    ("grpc.keepalive_time_ms", 300_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A restarted server is found again within seconds; gRPC's defaults grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


def target_uri(target: str) -> str:
    """Return `target` as a gRPC name: ``host:port`` is resolved by DNS, which gives round_robin every address."""
    scheme = target.split(":", 1)[0]
    has_scheme = "://" in target or scheme in {"dns", "ipv4", "ipv6", "unix", "unix-abstract", "xds"}
    return target if has_scheme else f"dns:///{target}"


class ServingChannel:
    """PredictionService and ModelService over one channel; thread-safe.

    Every method raises a `RecommenderError` of the type that fits the status.
    """

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        uri = target_uri(target)
        if credentials is None:
            self._channel = grpc.insecure_channel(uri, options=_OPTIONS)
        else:
            self._channel = grpc.secure_channel(uri, credentials, options=_OPTIONS)
        self._closed = False
        self._predict = self._method(PREDICTION_SERVICE, "Predict", wire.PredictRequest, wire.PredictResponse)
        self._metadata = self._method(
            PREDICTION_SERVICE, "GetModelMetadata", wire.GetModelMetadataRequest, wire.GetModelMetadataResponse
        )
        self._status = self._method(
            MODEL_SERVICE, "GetModelStatus", wire.GetModelStatusRequest, wire.GetModelStatusResponse
        )

    def predict(self, request: wire.PredictRequest, timeout: float) -> wire.PredictResponse:
        """Call ``PredictionService/Predict`` with a deadline of `timeout` seconds."""
        reply: wire.PredictResponse = self._call(self._predict, request, timeout)
        return reply

    def metadata(self, request: wire.GetModelMetadataRequest, timeout: float) -> wire.GetModelMetadataResponse:
        """Call ``PredictionService/GetModelMetadata`` with a deadline of `timeout` seconds."""
        reply: wire.GetModelMetadataResponse = self._call(self._metadata, request, timeout)
        return reply

    def status(
        self, request: wire.GetModelStatusRequest, timeout: float, *, wait_for_ready: bool = False
    ) -> wire.GetModelStatusResponse:
        """Call ``ModelService/GetModelStatus``; `wait_for_ready` waits for a connection instead of failing."""
        reply: wire.GetModelStatusResponse = self._call(self._status, request, timeout, wait_for_ready)
        return reply

    def close(self) -> None:
        """Close the channel and cancel the calls under way; a second time does nothing."""
        self._closed = True
        self._channel.close()

    def check_open(self) -> None:
        """Raise ClientClosedError after `close`."""
        if self._closed:
            raise ClientClosedError

    def _method(self, service: str, name: str, request: Any, response: Any) -> Callable[..., Any]:
        method: Callable[..., Any] = self._channel.unary_unary(
            f"/{service}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return method

    def _call(self, method: Callable[..., Any], request: Any, timeout: float, wait_for_ready: bool = False) -> Any:
        self.check_open()
        try:
            return method(request, timeout=timeout, wait_for_ready=wait_for_ready)
        except grpc.RpcError as error:
            if self._closed:
                raise ClientClosedError from error
            raise from_status(error.code(), error.details() or "") from error
        except ValueError as error:  # grpc: "Cannot invoke RPC on closed channel!"
            if self._closed:
                raise ClientClosedError from error
            raise
