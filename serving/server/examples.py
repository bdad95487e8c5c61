"""Classify, Regress and MultiInference: signatures that take serialized `tf.train.Example`s.

Checks, their order and their messages are TensorFlow Serving's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, model_pb2, regression_pb2

from twotower.serving.server import tensors
from twotower.serving.server.errors import ServingError, invalid_argument
from twotower.serving.server.predict import DEFAULT_SIGNATURE, fill_spec
from twotower.serving.server.servable import Servable, Signature

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
INPUTS = "inputs"
CLASSES, SCORES = "classes", "scores"
OUTPUTS = "outputs"

Outputs = Mapping[str, npt.NDArray[Any]]


def classify(
    servable: Servable, request: classification_pb2.ClassificationRequest, timeout_ms: int | None
) -> classification_pb2.ClassificationResponse:
    """Labels and scores of every example.

    Raises:
        ServingError: the signature is no classification, the input is empty, or the graph failed.
    """
    signature = _signature(servable, request.model_spec)
    aliases = _classification_outputs(signature)
    outputs, count = _run(servable, signature, request.input, aliases, timeout_ms)
    response = classification_pb2.ClassificationResponse()
    fill_spec(response.model_spec, servable, signature)
    _fill_classifications(response.result, outputs, count)
    return response


def regress(
    servable: Servable, request: regression_pb2.RegressionRequest, timeout_ms: int | None
) -> regression_pb2.RegressionResponse:
    """A value for every example.

    Raises:
        ServingError: the signature is no regression, the input is empty, or the graph failed.
    """
    signature = _signature(servable, request.model_spec)
    _check_regression(signature)
    outputs, count = _run(servable, signature, request.input, [OUTPUTS], timeout_ms)
    response = regression_pb2.RegressionResponse()
    fill_spec(response.model_spec, servable, signature)
    _fill_regressions(response.result, outputs[OUTPUTS], count)
    return response


def model_of(request: inference_pb2.MultiInferenceRequest) -> model_pb2.ModelSpec:
    """The spec of the one model that all tasks of the request are for.

    Raises:
        ServingError: INVALID_ARGUMENT, there is no task, or not one model.
    """
    if not request.tasks:
        raise invalid_argument("Inference request must have at least one task")
    first = request.tasks[0].model_spec
    for task in request.tasks:
        if not task.model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != first.name:
            raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    return first


def multi_inference(
    servable: Servable, request: inference_pb2.MultiInferenceRequest, timeout_ms: int | None
) -> inference_pb2.MultiInferenceResponse:
    """The results of several signatures on the same examples.

    Raises:
        ServingError: a task's signature or method does not fit, the input is empty, or the graph failed.
    """
    tasks = _tasks(servable, request)
    response = inference_pb2.MultiInferenceResponse()
    joined = servable.joined([(signature, aliases) for _, signature, aliases in tasks])
    found, count = _run(servable, joined, request.input, joined.aliases, timeout_ms)
    for place, (task, signature, aliases) in enumerate(tasks):
        outputs = {alias: found[f"{place}/{alias}"] for alias in aliases}
        result = response.results.add()
        fill_spec(result.model_spec, servable, signature)
        if task.method_name == CLASSIFY_METHOD:
            _fill_classifications(result.classification_result, outputs, count)
        else:
            _fill_regressions(result.regression_result, outputs[OUTPUTS], count)
    return response


def _tasks(
    servable: Servable, request: inference_pb2.MultiInferenceRequest
) -> list[tuple[inference_pb2.InferenceTask, Signature, list[str]]]:
    tasks: list[tuple[inference_pb2.InferenceTask, Signature, list[str]]] = []
    for task in request.tasks:
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if any(name == signature.name for _, signature, _ in tasks):
            raise invalid_argument(f"Duplicate evaluation of signature: {name}")
        signature = servable.signatures.get(name)
        if signature is None:
            raise invalid_argument(f"Requested signature not found in model graph: {name}")
        if task.method_name == CLASSIFY_METHOD:
            aliases = _classification_outputs(signature)
        elif task.method_name == REGRESS_METHOD:
            _check_regression(signature)
            aliases = [OUTPUTS]
        else:
            raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}")
        if tasks and _input_tensor(tasks[0][1]) != _input_tensor(signature):
            raise invalid_argument("Input tensor must be the same for all Signatures.")
        tasks.append((task, signature, aliases))
    return tasks


def _input_tensor(signature: Signature) -> str:
    return str(signature.definition.inputs[INPUTS].name)


def _signature(servable: Servable, spec: model_pb2.ModelSpec) -> Signature:
    name = spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {name}")
    return signature


def _classification_outputs(signature: Signature) -> list[str]:
    _check_input(signature, CLASSIFY_METHOD, "classification")
    if len(signature.outputs) not in (1, 2):
        raise invalid_argument(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    _check_input_alias(signature, "classification")
    aliases = [alias for alias in (CLASSES, SCORES) if alias in signature.outputs]
    if not aliases:
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}".'
            f" Signature was: {signature.definition}",
        )
    return aliases


def _check_regression(signature: Signature) -> None:
    _check_input(signature, REGRESS_METHOD, "regression")
    if len(signature.outputs) != 1:
        raise invalid_argument("Expected one output Tensor.")
    _check_input_alias(signature, "regression")
    if OUTPUTS not in signature.outputs:
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION, f"No regression outputs found in SignatureDef: {signature.definition}"
        )


def _check_input(signature: Signature, method: str, kind: str) -> None:
    found = signature.definition.method_name
    if found != method:
        raise invalid_argument(f"Expected {kind} signature method_name to be {method}. Was: {found}")
    if len(signature.inputs) != 1:
        raise invalid_argument("Expected one input Tensor.")


def _check_input_alias(signature: Signature, kind: str) -> None:
    if INPUTS not in signature.inputs:
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION, f"No {kind} inputs found in SignatureDef: {signature.definition}"
        )


def _run(
    servable: Servable, signature: Signature, given: input_pb2.Input, aliases: Sequence[str], timeout_ms: int | None
) -> tuple[Outputs, int]:
    serialized = _serialized(given)
    examples = np.empty(len(serialized), np.object_)
    examples[:] = serialized
    outputs = servable.run(signature, {INPUTS: examples}, aliases, timeout_ms)
    return dict(zip(aliases, outputs, strict=True)), len(serialized)


def _serialized(given: input_pb2.Input) -> list[bytes]:
    """The examples, each with the context's features where it has none of that name."""
    kind = given.WhichOneof("kind")
    if kind == "example_list":
        found = [example.SerializeToString() for example in given.example_list.examples]
    elif kind == "example_list_with_context":
        # Two messages one after the other are one merged message, in which the later entry of a map counts.
        context = given.example_list_with_context.context.SerializeToString()
        found = [context + example.SerializeToString() for example in given.example_list_with_context.examples]
    else:
        found = []
    if not found:
        raise invalid_argument("Input is empty.")
    return found


def _fill_classifications(result: classification_pb2.ClassificationResult, outputs: Outputs, count: int) -> None:
    for alias, dtype in ((CLASSES, types_pb2.DT_STRING), (SCORES, types_pb2.DT_FLOAT)):
        output = outputs.get(alias)
        if output is None:
            continue
        if output.ndim != 2:
            raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(output)}")
        if (found := tensors.dtype_of(output)) != dtype:
            raise invalid_argument(
                f"Expected {alias} Tensor of {types_pb2.DataType.Name(dtype)}. Got: {types_pb2.DataType.Name(found)}"
            )
        if len(output) != count:
            raise invalid_argument(f"Expected {alias} output batch size of {count}. Got: {len(output)}")
    widths = [output.shape[1] for output in outputs.values()]
    if len(set(widths)) > 1:
        raise invalid_argument(f"Tensors class and score should match in dim_size(1). Got {widths[0]} vs. {widths[1]}")
    labels = outputs[CLASSES].tolist() if CLASSES in outputs else None
    scores = outputs[SCORES].tolist() if SCORES in outputs else None
    for row in range(count):
        classes = result.classifications.add().classes
        for column in range(widths[0]):
            entry = classes.add()
            if labels is not None:
                entry.label = labels[row][column].decode(errors="replace")
            if scores is not None:
                entry.score = scores[row][column]


def _fill_regressions(result: regression_pb2.RegressionResult, output: npt.NDArray[Any], count: int) -> None:
    if not (output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1)):
        raise invalid_argument(
            f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(output)}"
        )
    if len(output) != count:
        raise invalid_argument(f"Input batch size did not match output batch size: {count} vs. {len(output)}")
    if (found := tensors.dtype_of(output)) != types_pb2.DT_FLOAT:
        raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {types_pb2.DataType.Name(found)}")
    for value in output.ravel().tolist():
        result.regressions.add().value = value


def _shape(output: npt.NDArray[Any]) -> str:
    return "[" + ",".join(str(size) for size in output.shape) + "]"
