"""Predict: from a request to a reply on one servable, with TensorFlow Serving's checks in its order."""

from collections.abc import Iterable
from typing import Any

import grpc
import numpy.typing as npt
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import predict_pb2

from twotower.serving.server import tensors
from twotower.serving.server.errors import ServingError, invalid_argument
from twotower.serving.server.servable import Servable

DEFAULT_SIGNATURE = "serving_default"


def predict(
    servable: Servable, request: predict_pb2.PredictRequest, timeout_ms: int | None
) -> predict_pb2.PredictResponse:
    """Runs the request's signature (`serving_default` when it names none).

    Args:
        servable: the version that the request's model spec resolved to.
        request: its model spec's signature name, inputs and output filter are used.
        timeout_ms: milliseconds left until the caller's deadline; None without one.

    Raises:
        ServingError: the request does not fit the signature, or the graph failed.
    """
    signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(signature_name)
    if signature is None:
        raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{signature_name}" not found.')
    feeds = _feeds(signature, request)
    aliases = _output_aliases(signature, request.output_filter)
    outputs = servable.run(feeds, [signature.outputs[alias].name for alias in aliases], timeout_ms)
    response = predict_pb2.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = servable.version
    response.model_spec.signature_name = signature_name
    for alias, output in zip(aliases, outputs, strict=True):
        tensors.encode_into(response.outputs[alias], output)
    return response


def _feeds(signature: meta_graph_pb2.SignatureDef, request: predict_pb2.PredictRequest) -> dict[str, npt.NDArray[Any]]:
    expected, sent, defaults = set(signature.inputs), set(request.inputs), set(signature.defaults)
    if len(sent) > len(expected) or (len(sent) < len(expected) and not defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)}"
            f" len({_braced(sent)}) != len({_braced(expected)})."
            f" Sent extra: {_braced(sent - expected)}. Missing but required: {_braced(expected - sent)}."
        )
    feeds = {}
    for alias in sorted(expected):
        feed_name = signature.inputs[alias].name
        if alias not in sent and alias not in defaults:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {feed_name}) not found in request and no default value"
                f" provided. Inputs expected to be in the request {_braced(sent)}, or default input alias set:"
                f" {','.join(sorted(defaults))}"
            )
        try:
            feeds[feed_name] = tensors.decode(request.inputs[alias] if alias in sent else signature.defaults[alias])
        except tensors.TensorParsingError as error:
            raise invalid_argument(f"tensor parsing error: {alias}") from error
    if not sent <= expected:
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(sent & expected))},"
            f" request input: {','.join(sorted(sent))}"
        )
    return feeds


def _output_aliases(signature: meta_graph_pb2.SignatureDef, output_filter: Iterable[str]) -> list[str]:
    """The outputs to fetch: those of the filter, or all of them when it is empty."""
    aliases: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias}"
                f" Outputs expected to be in the set {_braced(signature.outputs)}."
            )
        if alias in aliases:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        aliases.append(alias)
    return aliases or sorted(signature.outputs)


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
