"""canary, promote and rollback on a running model server, seen through the client's labels."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from server_harness import free_port, save_toy, times
from tensorflow_serving.apis import prediction_service_pb2_grpc

from twotower.pipeline import cli
from twotower.serving.server.options import ServerOptions
from twotower_client import Recommender, UnknownLabelError

pytestmark = pytest.mark.skipif(
    "model_config_file" not in {field.name for field in dataclasses.fields(ServerOptions)},
    reason="this model server reads no model config file",
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for version in (1, 2):
        save_toy(tmp_path / "models", version)
    path = tmp_path / "models.config"
    path.write_text(
        f'model_config_list {{ config {{ name: "toy" base_path: "{tmp_path}/models" model_platform: "tensorflow" '
        'model_version_policy { specific { versions: 1 } } version_labels { key: "stable" value: 1 } } }'
    )
    return path


@pytest.fixture
def server(config: Path) -> Iterator[str]:
    port = free_port()
    flags = [f"--model_config_file={config}", f"--port={port}", "--allow_version_labels_for_unavailable_models=true"]
    process = subprocess.Popen([sys.executable, "-m", "twotower.serving.server.main", *flags])
    try:
        with Recommender(f"localhost:{port}", "toy", label="stable") as client:
            client.wait_until_ready(120)
        yield f"localhost:{port}"
    finally:
        process.kill()
        process.wait()


def answer(server: str, label: str) -> float:
    """`y` of the labelled version for x = 1: the version's number."""
    request = times([1.0])
    request.model_spec.version_label = label
    with grpc.insecure_channel(server) as channel:
        reply = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=10)
    return float(reply.outputs["y"].float_val[0])


def test_labels_move_on_the_running_server(config: Path, server: str) -> None:
    def twotower(command: str, *more: str) -> None:
        assert cli.main([command, "--config", str(config), "--model", "toy", *more, "--server", server]) == 0

    twotower("canary", "--version", "2")
    assert (answer(server, "stable"), answer(server, "canary")) == (1.0, 2.0)
    twotower("promote")
    assert (answer(server, "stable"), answer(server, "previous")) == (2.0, 1.0)
    twotower("rollback")
    assert answer(server, "stable") == 1.0
    with Recommender(server, "toy") as client, pytest.raises(UnknownLabelError):
        client.status(label="previous")
