"""Several models from a configuration file: policies, labels, reloads, REST, metrics, a Unix socket, request logs."""

import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families
from server_harness import ServerProcess, State, eventually, free_port, save_examples, save_toy, times
from tensorflow_serving.apis import (
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from twotower.serving.server.errors import ServingError
from twotower.serving.server.main import main
from twotower.serving.server.manager import ModelConfig, ModelManager

PREDICT = "/v1/models/toy:predict"
CLASSIFY = "/v1/models/examples:classify"
METRICS = "/monitoring/prometheus/metrics"
CONFIG = """
model_config_list {{
  config {{
    name: "toy" base_path: "{root}/toy" model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 2 }} }}
    version_labels {{ key: "stable" value: 1 }} version_labels {{ key: "canary" value: 2 }}
    logging_config {{
      sampling_config {{ sampling_rate: 1.0 }}
      log_collector_config {{ type: "tfrecord" filename_prefix: "{root}/log/toy" }}
    }}
  }}
  config {{ name: "examples" base_path: "{root}/examples" model_platform: "tensorflow" }}
}}
"""


class Configured(ServerProcess):
    """A server with the configuration above, its files and its ports."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "models.config"
        self.rest_port = free_port()
        self.socket = root / "grpc.sock"
        (root / "log").mkdir()
        self.config.write_text(CONFIG.format(root=root))
        monitoring = root / "monitoring.config"
        monitoring.write_text('prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }')
        super().__init__(
            None,
            f"--model_config_file={self.config}",
            "--model_config_file_poll_wait_seconds=0.1",
            f"--rest_api_port={self.rest_port}",
            f"--monitoring_config_file={monitoring}",
            f"--grpc_socket_path={self.socket}",
            "--flush_filesystem_caches=false",
            "--num_load_threads=2",
        )

    def __enter__(self) -> "Configured":
        super().__enter__()
        return self

    def reload(self, config: str) -> None:
        request = model_management_pb2.ReloadConfigRequest(
            config=text_format.Parse(config, model_server_config_pb2.ModelServerConfig())
        )
        reply = model_service_pb2_grpc.ModelServiceStub(self.channel).HandleReloadConfigRequest(request, timeout=30)
        assert reply.HasField("status")
        assert reply.status.error_code == 0

    def rest(self, path: str, body: Any = None, method: str | None = None) -> tuple[int, Any]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        url = f"http://localhost:{self.rest_port}{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=10) as reply:
                text = reply.read()
                return reply.status, text.decode() if path.startswith("/monitoring") else json.loads(text)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    root = tmp_path_factory.mktemp("models")
    for version in (1, 2, 3):
        save_toy(root / "toy", version)
    save_examples(root / "examples", 3)
    with Configured(root) as process:
        yield process


def labelled(label: str) -> predict_pb2.PredictRequest:
    request = times([1.0])
    request.model_spec.version_label = label
    return request


def ask(server: ServerProcess, request: predict_pb2.PredictRequest) -> float:
    return float(server.predict(request, timeout=10).outputs["y"].float_val[0])


def refused(call: Any, *arguments: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call(*arguments)
    return raised.value.code().name, raised.value.details()


def test_the_named_versions_are_served_and_no_other(server: Configured) -> None:
    assert server.ready_line == f"serving toy, examples on 0.0.0.0:{server.port}"
    assert server.states() == {2: State.AVAILABLE, 1: State.AVAILABLE}
    assert server.multiply([1.0]) == [2.0]
    assert server.multiply([1.0], version=1) == [1.0]
    assert refused(lambda: server.multiply([1.0], version=3)) == (
        "NOT_FOUND",
        "Servable not found for request: Specific(toy, 3)",
    )
    assert any("without effect here: --flush_filesystem_caches, --num_load_threads" in line for line in server.log)


def test_labels_name_versions(server: Configured) -> None:
    assert ask(server, labelled("stable")) == 1.0
    assert ask(server, labelled("canary")) == 2.0
    assert refused(lambda: ask(server, labelled("nobody"))) == (
        "INVALID_ARGUMENT",
        "Unrecognized servable version label: nobody",
    )


def test_the_changed_file_moves_a_label_without_a_failed_request(server: Configured) -> None:
    stop, failures, answers = threading.Event(), [], set()

    def load() -> None:
        while not stop.is_set():
            try:
                answers.add(ask(server, labelled("stable")))
            except grpc.RpcError as error:
                failures.append(str(error))

    asking = threading.Thread(target=load)
    asking.start()
    text = CONFIG.format(root=server.root)
    try:
        server.config.write_text(text.replace('key: "stable" value: 1', 'key: "stable" value: 2'))
        eventually(lambda: 2.0 in answers or failures)
        server.config.write_text(text)
        answers.clear()
        eventually(lambda: 1.0 in answers or failures)
    finally:
        stop.set()
        asking.join()
    assert failures == []


def test_a_reload_that_cannot_be_kept_says_why_and_breaks_nothing(server: Configured) -> None:
    text = CONFIG.format(root=server.root)
    for wrong, code, message in (
        (
            text.replace('key: "canary" value: 2', 'key: "canary" value: 9'),
            "FAILED_PRECONDITION",
            "Request to assign label canary to version 9 of model toy, which is not currently available for inference",
        ),
        (text.replace('"examples" base', '"toy" base'), "INVALID_ARGUMENT", "Illegal to list model toy multiple times"),
        (text.replace('"examples" base', '"" base'), "INVALID_ARGUMENT", "found a model without a name"),
        (text.replace("tensorflow", "caffe"), "FAILED_PRECONDITION", "no entry for platform caffe"),
        (text.replace("1.0", "1.5"), "INVALID_ARGUMENT", "sampling_rate: expected 0 to 1, found 1.5"),
        (text.replace("/log/", "/nowhere/"), "INVALID_ARGUMENT", "filename_prefix: no directory"),
        (text.replace("/examples", "/nowhere"), "UNKNOWN", 'model "examples": nothing under'),
        ("", "INVALID_ARGUMENT", "ServerModelConfig type not supported by HandleReloadConfigRequest."),
    ):
        found = refused(server.reload, wrong)
        assert found[0] == code
        assert message in found[1]
        assert ask(server, labelled("stable")) == 1.0
        assert ask(server, labelled("canary")) == 2.0
        assert server.states("examples") == {3: State.AVAILABLE}
    server.reload(text)


def test_a_reload_replaces_the_whole_list(server: Configured) -> None:
    text = CONFIG.format(root=server.root)
    server.reload(text[: text.rindex("  config {")] + "}")
    assert refused(server.statuses, "examples") == ("NOT_FOUND", "Could not find any versions of model examples")
    server.reload(text.replace("specific { versions: 1 versions: 2 }", "all {}"))
    assert server.states() == {3: State.AVAILABLE, 2: State.AVAILABLE, 1: State.AVAILABLE}
    assert server.states("examples") == {3: State.AVAILABLE}
    server.reload(text.replace("specific { versions: 1 versions: 2 }", "latest { num_versions: 3 }"))
    server.reload(text)
    eventually(lambda: server.states()[3] == State.END)
    assert server.multiply([1.0]) == [2.0]


def test_the_unix_socket_answers_too(server: Configured) -> None:
    with grpc.insecure_channel(f"unix:{server.socket}") as channel:
        reply = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(times([3.0]), timeout=10)
    assert list(reply.outputs["y"].float_val) == [6.0]


def test_reflection_lists_the_services(server: Configured) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (reply,) = stub.ServerReflectionInfo(iter([request]), timeout=10)
    assert {service.name for service in reply.list_services_response.service} == {
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }


@pytest.mark.parametrize("method", ["Predict", "Classify", "Regress", "MultiInference"])
def test_without_a_model_every_method_refuses(server: Configured, method: str) -> None:
    call = server.channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
    assert refused(call, b"")[0] == "INVALID_ARGUMENT"
    assert refused(call, b"\xff\xff")[0] == "INTERNAL"


class TestRest:
    def test_rows_and_tensors(self, server: Configured) -> None:
        path = "/v1/models/toy"
        assert server.rest(f"{path}:predict", {"instances": [1, 0.1]}) == (
            200,
            {"predictions": [{"half": 0.5, "y": 2.0}, {"half": 0.05, "y": 0.2}]},
        )
        assert server.rest(f"{path}/versions/1:predict", {"inputs": [1, 0.1]}) == (
            200,
            {"outputs": {"half": [0.5, 0.05], "y": [1.0, 0.1]}},
        )
        assert server.rest(f"{path}/labels/canary:predict", {"inputs": {"x": [1.0]}})[1]["outputs"]["y"] == [2.0]
        words = {"signature_name": "lookup", "inputs": {"words": ["apple", {"b64": "YnJlYWQ="}, "no"], "k": 3}}
        assert server.rest(f"{path}:predict", words) == (
            200,
            {"outputs": {"ids": [0, 1, -1], "k": 3, "names": ["apple/0", "bread/1", "no/-1"]}},
        )
        assert server.rest(f"{path}:predict", b'{"instances": [NaN, -Infinity]}')[1]["predictions"][1]["y"] == -np.inf

    def test_examples(self, server: Configured) -> None:
        path = "/v1/models/examples"
        assert server.rest(f"{path}:classify", {"examples": [{"x": 1.0}, {"x": [2.5]}]}) == (
            200,
            {"results": [[["yes", 1.0], ["no", 2.0]], [["yes", 2.5], ["no", 0.5]]]},
        )
        asked = {"signature_name": "regress", "context": {"x": 5.0}, "examples": [{}, {"x": 0.1}]}
        assert server.rest(f"{path}:regress", asked) == (200, {"results": [15.0, 0.3]})

    def test_status_and_metadata(self, server: Configured) -> None:
        status, found = server.rest("/v1/models/toy/versions/1")
        assert status == 200
        assert found == {
            "model_version_status": [
                {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
            ]
        }
        status, found = server.rest("/v1/models/toy/metadata")
        assert found["model_spec"]["name"] == "toy"
        signatures = found["metadata"]["signature_def"]["signature_def"]
        assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"

    @pytest.mark.parametrize(
        ("path", "body", "status", "message"),
        [
            ("/v1/models/nobody:predict", {"instances": [1]}, 404, "Servable not found for request: Latest(nobody)"),
            ("/v1/models/toy/versions/9:predict", {"instances": [1]}, 404, "Specific(toy, 9)"),
            ("/v1/models/toy/labels/x:predict", {"instances": [1]}, 400, "Unrecognized servable version label: x"),
            (PREDICT, b"", 400, "JSON Parse error: The document is empty"),
            (PREDICT, b"{", 400, "JSON Parse error: "),
            (PREDICT, b"[1]", 400, "JSON Value: [1] Is not object"),
            (PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
            (PREDICT, {"instances": [], "inputs": []}, 400, "only one of 'inputs' or 'instances'"),
            (PREDICT, {"instances": 3}, 400, "Excepting 'instances' to be an list/array"),
            (PREDICT, {"instances": []}, 400, "No values in 'instances' array"),
            (
                PREDICT,
                {"instances": ["a"]},
                400,
                'JSON Value: "a" Type: String is not of expected type: float',
            ),
            (PREDICT, {"instances": [1, [1]]}, 400, "Expecting shape [] but got: [1]"),
            (
                PREDICT,
                {"inputs": [[1], [1, 2]]},
                400,
                "Encountered list at unexpected size: 2 at level: 1",
            ),
            (
                PREDICT,
                {"inputs": [1, [2]]},
                400,
                "Encountered list at unexpected level: 1 expected < 1",
            ),
            (PREDICT, {"inputs": {"z": 1}}, 400, "Missing named input: x in 'inputs' object."),
            (PREDICT, {"instances": [{"x": 1, "z": 2}]}, 400, "does not have named input: z"),
            (PREDICT, {"inputs": [1e39]}, 400, "to float32 without loss of precision."),
            (
                PREDICT,
                {"signature_name": 1, "inputs": [1]},
                400,
                "'signature_name' key must be a string",
            ),
            (
                PREDICT,
                {"signature_name": "s", "inputs": [1]},
                400,
                'name: "s" not found in signature def',
            ),
            (
                PREDICT,
                {"signature_name": "lookup", "inputs": [1]},
                400,
                "inputs is a plain value/list",
            ),
            (
                PREDICT,
                {"signature_name": "lookup", "inputs": {"words": [{"b64": "?"}], "k": 1}},
                400,
                "Unable to base64 decode",
            ),
            (
                PREDICT,
                {"signature_name": "lookup", "inputs": {"words": ["a"], "k": 1.5}},
                400,
                "JSON Value: 1.5 Type: Number is not of expected type: int32",
            ),
            (
                PREDICT,
                {"signature_name": "lookup", "inputs": {"words": ["a"], "k": 4}},
                400,
                "k must be below 4",
            ),
            (CLASSIFY, {}, 400, "key 'examples' is expected and was not found"),
            (
                "/v1/models/examples:classify",
                {"examples": [{"x": None}]},
                400,
                "Feature: x has element with unexpected",
            ),
            (
                "/v1/models/examples:classify",
                {"examples": [{"x": [1, "a"]}]},
                400,
                "Unexpected element type in feature: x",
            ),
            ("/v1/nothing", {}, 400, "Malformed request: POST /v1/nothing"),
            (PREDICT, None, 400, "Malformed request: GET /v1/models/toy:predict"),
            ("/v1/models", None, 400, "Missing model name in request."),
            ("/v1/models/nobody", None, 404, "Could not find any versions of model nobody"),
            ("/v1/models/toy/versions/99999999999999999999", None, 400, "Failed to convert version: 9999"),
            ("/elsewhere", None, 404, "Not found: GET /elsewhere"),
        ],
    )
    def test_a_wrong_request_is_refused(
        self, server: Configured, path: str, body: Any, status: int, message: str
    ) -> None:
        found = server.rest(path, body)
        assert found[0] == status
        assert message in found[1]["error"]

    def test_a_slow_signature_holds_nobody_up_though_the_default_one_is_quick(self, server: Configured) -> None:
        for _ in range(20):
            server.multiply([1.0])  # until it is known to be quick
        slow: list[tuple[int, Any]] = []
        asked = {"signature_name": "count", "inputs": 300_000}
        asking = threading.Thread(target=lambda: slow.append(server.rest(PREDICT, asked)))
        asking.start()
        time.sleep(0.05)
        assert server.multiply([1.0]) == [2.0]
        assert not slow
        asking.join()
        assert slow == [(200, {"outputs": 300_000})]

    def test_nesting_without_end_is_refused(self, server: Configured) -> None:
        status, found = server.rest(PREDICT, b'{"inputs": ' + b"[" * 100_000)
        assert status == 400
        assert found["error"] == "JSON Parse error: nested too deeply"


def samples(server: Configured) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    _, page = server.rest(METRICS)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_prometheus_reads_tensorflow_servings_metrics(server: Configured) -> None:
    # The parser gives every counter the suffix that TensorFlow Serving's do not have.
    count = (":tensorflow:serving:request_count_total", (("model_name", "toy"), ("status", "OK")))
    assert ':tensorflow:serving:request_count{model_name="toy",status="OK"} ' in server.rest(METRICS)[1]
    grpc_latency = (("API", "Predict"), ("entrypoint", "GRPC"), ("model_name", "toy"))
    before = samples(server)
    server.multiply([1.0])
    server.rest(PREDICT, {"instances": [1]})
    refused(lambda: server.multiply([1.0], version=9))
    after = samples(server)

    def grown(name: str, labels: tuple[tuple[str, str], ...]) -> float:
        return after[name, labels] - before.get((name, labels), 0)

    assert grown(*count) == 2
    assert grown(count[0], (("model_name", "toy"), ("status", "NOT_FOUND"))) == 1
    assert grown(":tensorflow:serving:request_latency_count", grpc_latency) == 2
    assert grown(":tensorflow:serving:request_latency_sum", grpc_latency) > 0
    assert grown(":tensorflow:serving:request_latency_bucket", tuple(sorted((*grpc_latency, ("le", "+Inf"))))) == 2
    for stage in ("parse", "run", "reply"):
        assert grown(":twotower:serving:stage_latency_count", (("model_name", "toy"), ("stage", stage))) == 2
    loads = [value for (name, _), value in after.items() if name == ":tensorflow:cc:saved_model:load_latency_total"]
    assert loads
    assert min(loads) > 0


def test_sigterm_finishes_what_is_under_way_and_the_sampled_requests_can_be_read_back(server: Configured) -> None:
    request = times([41.0])
    server.predict(request, timeout=10)
    server.rest(PREDICT, {"instances": [42.0]})
    slow: list[tuple[int, Any]] = []
    asked = {"signature_name": "count", "inputs": 300_000}
    asking = threading.Thread(target=lambda: slow.append(server.rest(PREDICT, asked)))
    asking.start()
    server.multiply([1.0])
    assert not slow
    assert server.terminate() == 0
    asking.join()
    assert slow == [(200, {"outputs": 300_000})]
    files = [str(path) for path in (server.root / "log").iterdir()]
    assert all(path.endswith(".tfrecord") for path in files)
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(files).as_numpy_iterator()
    ]
    by_input = {
        tuple(log.predict_log.request.inputs["x"].float_val): log
        for log in logs
        if "x" in log.predict_log.request.inputs
    }
    assert by_input[41.0,].predict_log.request == request
    for value in (41.0, 42.0):
        log = by_input[value,]
        assert list(log.predict_log.response.outputs["y"].float_val) == [2 * value]
        assert log.log_metadata.model_spec.version.value == 2
        assert log.log_metadata.sampling_config.sampling_rate == 1.0


def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "models.config"
    for text, message in (
        (None, "No such file or directory"),
        (
            "model_config_list { konfig {} }",
            'expected a ModelServerConfig as text, found at 1:21 : Message type "tenso',
        ),
        ('model_config_list { config { name: "m" } }', "model m: base_path: empty"),
    ):
        if text is not None:
            config.write_text(text)
        assert main([f"--model_config_file={config}", "--port=0"]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("twotower-model-server: ")
        assert message in line


def test_a_changed_base_path_is_served_once_it_has_a_version(tmp_path: Path) -> None:
    save_toy(tmp_path / "old", 1)
    (tmp_path / "new").mkdir()
    manager = ModelManager(poll_wait_seconds=0)
    try:
        manager.configure([ModelConfig("toy", str(tmp_path / "old"))])
        with pytest.raises(ServingError, match="no version found"):
            manager.configure([ModelConfig("toy", str(tmp_path / "new"))])
        with manager.acquire(model_pb2.ModelSpec(name="toy")) as servable:
            assert servable.version == 1
        shutil.copytree(tmp_path / "old" / "1", tmp_path / "new" / "7")
        manager.configure([ModelConfig("toy", str(tmp_path / "new"))])
        with manager.acquire(model_pb2.ModelSpec(name="toy")) as servable:
            assert servable.version == 7
    finally:
        manager.close()
