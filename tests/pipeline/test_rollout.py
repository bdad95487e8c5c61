"""The labels in a model config file: what canary, promote and rollback make of it, and what servers are told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from twotower.features.errors import InputError
from twotower.pipeline import cli, model_config

State = get_model_status_pb2.ModelVersionStatus
CONFIG = """# the shop's models

model_config_list {
  config { name: "other" base_path: "/models/other" }
  config {
    name: "recommender" base_path: "/models/recommender" model_platform: "tensorflow"
    model_version_policy { specific { versions: 1 } }
    version_labels { key: "stable" value: 1 }
  }
}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "models.config"
    path.write_text(CONFIG)
    path.chmod(0o640)
    return path


def labels(path: Path) -> dict[str, int]:
    return dict(model_config.model_config(path, model_config.read(path), "recommender").version_labels)


def loaded(path: Path) -> list[int]:
    one = model_config.model_config(path, model_config.read(path), "recommender")
    return list(one.model_version_policy.specific.versions)


def twotower(command: str, path: Path, *more: str) -> int:
    return cli.main([command, "--config", str(path), "--model", "recommender", *more])


def fails(capsys: pytest.CaptureFixture[str], command: str, path: Path, *more: str) -> str:
    """The one line of error of a command that must leave the file and its folder as they were."""
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.is_file()}
    assert twotower(command, path, *more) == 2
    assert {entry.name: entry.read_bytes() for entry in path.parent.iterdir() if entry.is_file()} == before
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_a_canary_is_promoted_and_rolled_back(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert twotower("canary", config, "--version", "2") == 0
    assert (labels(config), loaded(config)) == ({"stable": 1, "canary": 2}, [1, 2])
    assert capsys.readouterr().out == f"{config}: recommender: canary 2, stable 1\n"
    assert twotower("promote", config) == 0
    assert (labels(config), loaded(config)) == ({"stable": 2, "previous": 1}, [1, 2])
    assert twotower("rollback", config) == 0
    assert (labels(config), loaded(config)) == ({"stable": 1}, [1])


def test_a_version_is_promoted_past_the_canary(config: Path) -> None:
    assert twotower("canary", config, "--version", "2") == 0
    assert twotower("promote", config, "--version", "3") == 0
    assert (labels(config), loaded(config)) == ({"stable": 3, "previous": 1, "canary": 2}, [1, 2, 3])


def test_a_rollback_takes_the_bad_version_from_the_canary_too(config: Path) -> None:
    assert twotower("promote", config, "--version", "2") == 0
    with_canary = model_config.read(config)
    model_config.model_config(config, with_canary, "recommender").version_labels["canary"] = 2
    config.write_text(text_format.MessageToString(with_canary))
    assert twotower("rollback", config) == 0
    assert labels(config) == {"stable": 1}


def test_the_first_version_of_a_file_without_labels(config: Path) -> None:
    config.write_text('model_config_list { config { name: "recommender" base_path: "/m" } }')
    assert twotower("promote", config, "--version", "4") == 0
    assert (labels(config), loaded(config)) == ({"stable": 4}, [4])


def test_all_else_in_the_file_stays(config: Path) -> None:
    before = model_config.read(config)
    assert twotower("canary", config, "--version", "2") == 0
    after = model_config.read(config)
    assert after.model_config_list.config[0] == before.model_config_list.config[0]
    assert after.model_config_list.config[1].base_path == "/models/recommender"
    assert config.read_text().startswith("# the shop's models\n\nmodel_config_list")
    assert config.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in config.parent.iterdir()] == ["models.config"]


MOVES = st.lists(
    st.one_of(
        st.integers(1, 4).map(model_config.canary),
        st.none().map(model_config.promote),
        st.integers(1, 4).map(model_config.promote),
        st.just(model_config.rollback),
    ),
    max_size=8,
)


@given(moves=MOVES)
def test_whatever_is_done_labelled_versions_are_loaded_and_a_promotion_can_be_undone(
    moves: list[model_config.Change],
) -> None:
    path = Path("models.config")
    config = text_format.Parse(CONFIG, model_server_config_pb2.ModelServerConfig())
    for move in moves:
        try:
            config = model_config.changed(path, config, "recommender", move)
        except InputError:
            continue
        model = model_config.model_config(path, config, "recommender")
        named = set(model.version_labels.values())
        assert set(model.model_version_policy.specific.versions) == named
        assert set(model.version_labels) <= {"stable", "canary", "previous"}
        assert model.version_labels["stable"] != model.version_labels.get("canary")
    stable = model_config.model_config(path, config, "recommender").version_labels["stable"]
    after = model_config.changed(path, config, "recommender", model_config.promote(9))
    back = model_config.changed(path, after, "recommender", model_config.rollback)
    assert model_config.model_config(path, back, "recommender").version_labels["stable"] == stable


@pytest.mark.parametrize(
    ("command", "more", "message"),
    [
        ("promote", [], "models.config: model 'recommender': found no label 'canary' to promote; expected one, or --"),
        ("promote", ["--version", "1"], "version 1 is stable already"),
        ("canary", ["--version", "1"], "version 1 is stable already; expected another one as canary"),
        ("canary", ["--version", "0"], "version: expected at least 1, found 0"),
        ("rollback", [], "found no label 'previous' to go back to"),
        ("rollback", ["--model", "shop"], "found no model 'shop'; it has: other, recommender"),
    ],
)
def test_bad_moves(
    config: Path, command: str, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in fails(capsys, command, config, *more)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_lst {}", "expected a ModelServerConfig in text form: 1:1"),
        ("", "model_config_list: expected at least one config, found none"),
    ],
)
def test_bad_files(config: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(text)
    assert message in fails(capsys, "promote", config)
    config.unlink()
    assert "models.config: cannot read the model config file" in fails(capsys, "promote", config)


def test_a_version_that_is_not_in_the_models_folder(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "models" / "1").mkdir(parents=True)
    config.write_text(CONFIG.replace("/models/recommender", str(config.parent / "models")))
    assert "has no version 2; it has: 1" in fails(capsys, "canary", config, "--version", "2")


# --- running servers -------------------------------------------------------------------------------------------------


class LabelServer(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """TensorFlow Serving's rules for labels: only loaded versions may have one, and loading takes a while."""

    def __init__(self, config: Path, bad: tuple[int, ...] = ()) -> None:
        self.config = model_config.read(config)
        self.available = set(loaded(config))
        self.bad = bad
        self.failed: set[int] = set()
        self.refuses = False
        self.reloads = 0
        self._server = grpc.server(ThreadPoolExecutor(2))
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        self.target = f"localhost:{self._server.add_insecure_port('localhost:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    @property
    def labels(self) -> dict[str, int]:
        return dict(model_config.model_config(Path(), self.config, "recommender").version_labels)

    def HandleReloadConfigRequest(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.reloads += 1
        if self.refuses:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        model = model_config.model_config(Path(), request.config, "recommender")
        for label, version in model.version_labels.items():
            if version not in self.available:
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{label}: version {version} is not available")
        self.config = request.config
        wanted = set(model.model_version_policy.specific.versions)
        self.available &= wanted
        self.failed = wanted & set(self.bad)
        threading.Timer(0.3, lambda: self.available.update(wanted - self.failed)).start()
        return model_management_pb2.ReloadConfigResponse()

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        reply = get_model_status_pb2.GetModelStatusResponse()
        for version in sorted(self.available):
            reply.model_version_status.add(version=version, state=State.AVAILABLE)
        for version in self.failed:
            reply.model_version_status.add(version=version, state=State.END).status.error_message = "no saved_model.pb"
        return reply


@pytest.fixture
def servers(config: Path) -> Iterator[list[LabelServer]]:
    both = [LabelServer(config), LabelServer(config)]
    yield both
    for server in both:
        server.stop()


def told(servers: list[LabelServer]) -> list[str]:
    return ["--server", *(server.target for server in servers)]


def test_servers_load_the_version_before_it_gets_its_label(
    config: Path, servers: list[LabelServer], capsys: pytest.CaptureFixture[str]
) -> None:
    assert twotower("canary", config, "--version", "2", *told(servers)) == 0
    assert [server.labels for server in servers] == [{"stable": 1, "canary": 2}] * 2
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{server.target}: version {version} AVAILABLE" for server in servers for version in (1, 2)
    ]
    assert twotower("promote", config, *told(servers)) == 0
    assert [server.labels for server in servers] == [{"stable": 2, "previous": 1}] * 2
    assert twotower("rollback", config, *told(servers)) == 0
    assert [(server.labels, server.available) for server in servers] == [({"stable": 1}, {1})] * 2
    assert labels(config) == {"stable": 1}


def test_one_server_that_refuses_leaves_file_and_servers_as_they_were(
    config: Path, servers: list[LabelServer], capsys: pytest.CaptureFixture[str]
) -> None:
    servers[1].refuses = True
    line = fails(capsys, "promote", config, "--version", "2", *told(servers))
    assert f"{servers[1].target}: HandleReloadConfigRequest: INVALID_ARGUMENT: no" in line
    assert [server.labels for server in servers] == [{"stable": 1}] * 2
    assert servers[0].config == model_config.read(config)


def test_a_version_that_does_not_load(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = LabelServer(config, bad=(2,))
    try:
        line = fails(capsys, "canary", config, "--version", "2", "--server", server.target)
        assert f"{server.target}: version 2 of 'recommender' did not load: no saved_model.pb" in line
        assert server.config == model_config.read(config)
    finally:
        server.stop()


def test_no_server_there(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "canary", config, "--version", "2", "--server", "localhost:1")
    assert "localhost:1: HandleReloadConfigRequest: UNAVAILABLE" in line
