"""How the client connects: the methods it calls, the channel's options, and what proves who is calling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import grpc

from . import wire_pb2 as wire
from .errors import InvalidRequestError

PREDICTION_SERVICE = "tensorflow.serving.PredictionService"
MODEL_SERVICE = "tensorflow.serving.ModelService"

#: Replies and requests up to 256 MiB; gRPC's own default for replies is 4 MiB, about 16,000 embeddings of 64 floats.
MAX_MESSAGE_BYTES = 256 * 1024 * 1024


class Method(NamedTuple):
    """A unary method as ``channel.unary_unary`` takes it."""

    path: str
    request_serializer: Callable[[Any], bytes]
    response_deserializer: Callable[[bytes], Any]


METHODS = {
    name: Method(f"/{service}/{name}", request.SerializeToString, response.FromString)
    for service, name, request, response in (
        (PREDICTION_SERVICE, "Predict", wire.PredictRequest, wire.PredictResponse),
        (PREDICTION_SERVICE, "GetModelMetadata", wire.GetModelMetadataRequest, wire.GetModelMetadataResponse),
        (MODEL_SERVICE, "GetModelStatus", wire.GetModelStatusRequest, wire.GetModelStatusResponse),
    )
}

#: Only UNAVAILABLE is sent again: the server did not take the request, and all calls here are reads. gRPC varies each
#: pause at random, so that clients do not come back all at once.
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

OPTIONS = (
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

#: A bearer token, or a function that gives the one of the moment, where tokens expire.
Token: TypeAlias = str | Callable[[], str]

#: A PEM file's path, or its contents.
Pem: TypeAlias = str | Path | bytes


def target_uri(target: str) -> str:
    """Return `target` as a gRPC name: ``host:port`` is resolved by DNS, which gives round_robin every address."""
    scheme = target.split(":", 1)[0]
    has_scheme = "://" in target or scheme in {"dns", "ipv4", "ipv6", "unix", "unix-abstract", "xds"}
    return target if has_scheme else f"dns:///{target}"


def tls_credentials(
    root_certificates: Pem | None = None, certificate: Pem | None = None, private_key: Pem | None = None
) -> grpc.ChannelCredentials:
    """Return credentials for TLS, and for mutual TLS where the client's own certificate is given.

    Args:
        root_certificates: the authorities that the server's certificate is checked against; None: gRPC's own.
        certificate: the client's certificate chain.
        private_key: the key of `certificate`.

    Raises:
        InvalidRequestError: one of certificate and key without the other, a file that cannot be read, no PEM in it.
    """
    if (certificate is None) != (private_key is None):
        raise InvalidRequestError("certificate, private_key: expected both for mutual TLS, or neither; found one")
    return grpc.ssl_channel_credentials(
        _pem("root_certificates", root_certificates),
        _pem("private_key", private_key),
        _pem("certificate", certificate),
    )


def authorization(token: Token | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that carries the token.

    Raises:
        InvalidRequestError: it cannot stand in a header. The message does not repeat it.
    """
    if token is None:
        return ()
    value = token if isinstance(token, str) else token()
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise InvalidRequestError("token: expected printable ASCII without spaces")
    return (("authorization", f"Bearer {value}"),)


def check_token_is_safe(token: Token | None, credentials: grpc.ChannelCredentials | None, insecure_token: bool) -> None:
    """Refuse a token over a channel that anybody on the way may read, unless that is meant."""
    if token is not None and credentials is None and not insecure_token:
        raise InvalidRequestError(
            "token: expected credentials beside it, found none; insecure_token=True sends it without TLS"
        )


def _pem(what: str, pem: Pem | None) -> bytes | None:
    if pem is None:
        return None
    try:
        contents = pem if isinstance(pem, bytes) else Path(pem).read_bytes()
    except OSError as error:
        raise InvalidRequestError(f"{what}: cannot read {str(pem)!r}: {error.strerror}") from None
    if b"-----BEGIN " not in contents:
        source = "the bytes" if isinstance(pem, bytes) else repr(str(pem))
        raise InvalidRequestError(f"{what}: expected PEM (-----BEGIN ...), {source} hold none")
    return contents
