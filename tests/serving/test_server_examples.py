"""Classify, Regress and MultiInference on a TF1 model: answers, and errors in TensorFlow Serving's words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tensorflow as tf
from server_harness import save_examples, save_toy
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, model_pb2, regression_pb2

from twotower.serving.server.errors import ServingError
from twotower.serving.server.examples import classify, model_of, multi_inference, regress
from twotower.serving.server.servable import Servable

CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


@pytest.fixture(scope="module")
def servable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servable]:
    servable = Servable("examples", 3, str(save_examples(tmp_path_factory.mktemp("examples"), 3)))
    yield servable
    servable.close()


def example(**features: float) -> tf.train.Example:
    made = tf.train.Example()
    for name, value in features.items():
        made.features.feature[name].float_list.value.append(value)
    return made


def given(*xs: float) -> input_pb2.Input:
    return input_pb2.Input(example_list=input_pb2.ExampleList(examples=[example(x=x) for x in xs]))


def spec(signature: str = "") -> model_pb2.ModelSpec:
    return model_pb2.ModelSpec(name="examples", signature_name=signature)


def classification(signature: str = "", *xs: float) -> classification_pb2.ClassificationRequest:
    return classification_pb2.ClassificationRequest(model_spec=spec(signature), input=given(*xs))


def test_classes_and_scores(servable: Servable) -> None:
    response = classify(servable, classification("", 1.0, 2.5), None)
    found = [[(entry.label, entry.score) for entry in row.classes] for row in response.result.classifications]
    assert found == [[("yes", 1.0), ("no", 2.0)], [("yes", 2.5), ("no", 0.5)]]
    assert (response.model_spec.name, response.model_spec.version.value) == ("examples", 3)
    assert response.model_spec.signature_name == "serving_default"


def test_scores_alone_have_no_labels(servable: Servable) -> None:
    (row,) = classify(servable, classification("scores_only", 1.0), None).result.classifications
    assert [(entry.label, entry.score) for entry in row.classes] == [("", 1.0), ("", 2.0)]


def test_values_and_a_context_that_an_example_overrides(servable: Servable) -> None:
    request = regression_pb2.RegressionRequest(model_spec=spec("regress"))
    request.input.example_list_with_context.context.CopyFrom(example(x=5.0))
    request.input.example_list_with_context.examples.extend([example(), example(x=2.0)])
    assert [entry.value for entry in regress(servable, request, None).result.regressions] == [15.0, 6.0]


def inference(*tasks: tuple[str, str], model: str = "examples") -> inference_pb2.MultiInferenceRequest:
    request = inference_pb2.MultiInferenceRequest(input=given(1.0, 2.0))
    for signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.CopyFrom(model_pb2.ModelSpec(name=model, signature_name=signature))
    return request


def test_several_tasks_on_the_same_examples(servable: Servable) -> None:
    response = multi_inference(servable, inference(("", CLASSIFY), ("regress", REGRESS)), None)
    first, second = response.results
    assert [row.classes[0].score for row in first.classification_result.classifications] == [1.0, 2.0]
    assert first.model_spec.signature_name == "serving_default"
    assert [entry.value for entry in second.regression_result.regressions] == [3.0, 6.0]
    assert second.model_spec.signature_name == "regress"


@pytest.mark.parametrize(
    ("answer", "request_", "code", "message"),
    [
        (classify, classification("nowhere", 1.0), "INVALID_ARGUMENT", "No signature was found with the name: nowhere"),
        (classify, classification(""), "INVALID_ARGUMENT", "Input is empty."),
        (
            classify,
            classification("regress", 1.0),
            "INVALID_ARGUMENT",
            f"Expected classification signature method_name to be {CLASSIFY}. Was: {REGRESS}",
        ),
        (
            classify,
            classification("no_classes", 1.0),
            "FAILED_PRECONDITION",
            'Expected classification signature outputs to contain at least one of "classes" or "scores".',
        ),
        (
            regress,
            regression_pb2.RegressionRequest(model_spec=spec("wide_regress"), input=given(1.0)),
            "INVALID_ARGUMENT",
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]",
        ),
        (
            multi_inference,
            inference(("", CLASSIFY), ("serving_default", CLASSIFY)),
            "INVALID_ARGUMENT",
            "Duplicate evaluation of signature: serving_default",
        ),
        (
            multi_inference,
            inference(("nowhere", CLASSIFY)),
            "INVALID_ARGUMENT",
            "Requested signature not found in model graph: nowhere",
        ),
        (
            multi_inference,
            inference(("", "tensorflow/serving/predict")),
            "UNIMPLEMENTED",
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
    ],
)
def test_what_does_not_fit_is_refused(servable: Servable, answer: Any, request_: Any, code: str, message: str) -> None:
    with pytest.raises(ServingError) as raised:
        answer(servable, request_, None)
    assert raised.value.code is grpc.StatusCode[code]
    assert raised.value.message.startswith(message)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (inference(), "Inference request must have at least one task"),
        (inference(("", CLASSIFY), model=""), "Found ModelSpec with an empty model name."),
    ],
)
def test_the_tasks_name_one_model(request_: Any, message: str) -> None:
    with pytest.raises(ServingError, match=message):
        model_of(request_)


def test_a_predict_signature_is_no_classification(tmp_path: Path) -> None:
    servable = Servable("toy", 1, str(save_toy(tmp_path, 1)))
    try:
        with pytest.raises(ServingError, match=r"Was: tensorflow/serving/predict"):
            classify(servable, classification("", 1.0), None)
    finally:
        servable.close()
