"""Predict: what of a request goes into a signature, and what of its outputs into a reply.

The checks are TensorFlow Serving's, in its order.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import numpy.typing as npt
from tensorflow_serving.apis import model_pb2, predict_pb2

from twotower.serving.server import tensors
from twotower.serving.server.errors import ServingError, invalid_argument
from twotower.serving.server.servable import Servable, Signature

DEFAULT_SIGNATURE = "serving_default"


def signature_of(servable: Servable, request: predict_pb2.PredictRequest) -> Signature:
    """The signature that a request names, `serving_default` when it names none.

    Raises:
        ServingError: FAILED_PRECONDITION, there is no such signature.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise ServingError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    return signature


def predict(
    servable: Servable, request: predict_pb2.PredictRequest, timeout_ms: int | None
) -> predict_pb2.PredictResponse:
    """Runs the request's signature.

    Args:
        servable: the version that the request's model spec resolved to.
        request: its model spec's signature name, inputs and output filter are used.
        timeout_ms: milliseconds left until the caller's deadline; None without one.

    Raises:
        ServingError: the request does not fit the signature, or the graph failed.
    """
    signature = signature_of(servable, request)
    feeds = inputs_of(signature, request)
    aliases = aliases_of(signature, request.output_filter)
    outputs = servable.run(signature, feeds, aliases, timeout_ms)
    return response_of(servable, signature, aliases, outputs)


def response_of(
    servable: Servable, signature: Signature, aliases: Iterable[str], outputs: Iterable[npt.NDArray[Any]]
) -> predict_pb2.PredictResponse:
    """The reply that holds the outputs under their aliases."""
    response = predict_pb2.PredictResponse()
    fill_spec(response.model_spec, servable, signature)
    for alias, output in zip(aliases, outputs, strict=True):
        tensors.encode_into(response.outputs[alias], output)
    return response


def fill_spec(spec: model_pb2.ModelSpec, servable: Servable, signature: Signature) -> None:
    """Says in a reply which version and which of its signatures has answered."""
    spec.name = servable.name
    spec.version.value = servable.version
    spec.signature_name = signature.name


def inputs_of(signature: Signature, request: predict_pb2.PredictRequest) -> dict[str, npt.NDArray[Any]]:
    """Alias to value of every input of the signature.

    Raises:
        ServingError: INVALID_ARGUMENT, an input is missing, unknown, or no tensor.
    """
    sent = request.inputs
    expected, defaults = signature.input_names, signature.default_names
    known = sum(alias in sent for alias in signature.inputs)
    if known != len(expected) or len(sent) != known:
        _check_names(signature, set(sent))
    feeds = {}
    for alias in signature.inputs:
        try:
            feeds[alias] = tensors.decode(
                sent[alias] if not defaults or alias in sent else signature.definition.defaults[alias]
            )
        except tensors.TensorParsingError as error:
            raise invalid_argument(f"tensor parsing error: {alias}") from error
    if len(sent) > known:
        raise invalid_argument(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(set(sent) & expected))},"
            f" request input: {','.join(sorted(sent))}"
        )
    return feeds


def _check_names(signature: Signature, sent: set[str]) -> None:
    expected, defaults = signature.input_names, signature.default_names
    if len(sent) > len(expected) or (len(sent) < len(expected) and not defaults):
        raise invalid_argument(
            f"input size does not match signature: {len(sent)}!={len(expected)}"
            f" len({_braced(sent)}) != len({_braced(expected)})."
            f" Sent extra: {_braced(sent - expected)}. Missing but required: {_braced(expected - sent)}."
        )
    for alias in signature.inputs:
        if alias not in sent and alias not in defaults:
            raise invalid_argument(
                f"Signature input alias: {alias}(feed name: {signature.definition.inputs[alias].name}) not found in"
                f" request and no default value provided. Inputs expected to be in the request {_braced(sent)}, or"
                f" default input alias set: {','.join(sorted(defaults))}"
            )


def aliases_of(signature: Signature, output_filter: Sequence[str]) -> Sequence[str]:
    """The outputs to fetch: those of the filter, or all of them when it is empty.

    Raises:
        ServingError: INVALID_ARGUMENT, the filter names an output that is not there, or one twice.
    """
    if not output_filter:
        return signature.aliases
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
    return aliases


def _braced(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
