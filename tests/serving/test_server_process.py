"""The server as a process: starting, refusing to start, changing versions under load, stopping, dying."""

import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from server_harness import ServerProcess, State, eventually, free_port, predict_request, save_toy, times

from twotower.serving.server.main import main
from twotower.serving.server.options import ServerOptions, parse_flags


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("exported")
    for version in (1, 2):
        save_toy(base, version, warm_up=[times([1.0])])
    return base


@pytest.fixture(scope="module")
def base(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base path of the server that the tests of this module share; it starts with version 1."""
    base = tmp_path_factory.mktemp("base")
    shutil.copytree(exported / "1", base / "1")
    return base


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[ServerProcess]:
    with ServerProcess(base, port=free_port()) as process:
        yield process


class Load:
    """Threads that ask without pause, and keep every answer and every failure."""

    def __init__(self, server: ServerProcess, threads: int = 4) -> None:
        self.answers: set[float] = set()
        self.failures: list[str] = []
        self.count = 0
        self._server = server
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.update(self._server.multiply([1.0]))
                self.count += 1
            except grpc.RpcError as error:
                self.failures.append(str(error))

    def passed(self, requests: int) -> None:
        """Waits until that many more requests have been answered."""
        target = self.count + requests
        eventually(lambda: self.count >= target or self.failures)


def test_versions_change_under_load_without_a_failed_request(server: ServerProcess, base: Path, exported: Path) -> None:
    assert server.version == 1
    with Load(server) as load:
        load.passed(100)
        shutil.copytree(exported / "2", base / "2.copying")
        load.passed(100)
        assert load.answers == {1.0}
        (base / "2.copying").rename(base / "2")
        eventually(lambda: server.states() == {2: State.AVAILABLE, 1: State.END})
        load.answers.clear()
        load.passed(100)
    assert load.failures == []
    assert 2.0 in load.answers
    assert server.multiply([1.0]) == [2.0]


def test_a_broken_newer_version_leaves_the_old_one_serving(server: ServerProcess, base: Path, exported: Path) -> None:
    with Load(server) as load:
        shutil.copytree(exported / "2", base / "3.copying")
        (base / "3.copying" / "saved_model.pb").write_bytes(b"garbage")
        (base / "3.copying").rename(base / "3")
        eventually(lambda: server.states().get(3) == State.END)
        load.passed(100)
    assert load.failures == []
    assert load.answers == {2.0}
    broken = server.statuses()[0]
    assert broken.version == 3
    assert broken.status.error_code == grpc.StatusCode.DATA_LOSS.value[0]
    assert server.states()[2] == State.AVAILABLE
    shutil.rmtree(base / "3")


def test_a_port_in_use_is_one_line(server: ServerProcess, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--model_base_path={base}", f"--port={server.port}"]) == 1
    assert capsys.readouterr().err == (
        f"twotower-model-server: port {server.port} cannot be bound on 0.0.0.0: Address already in use\n"
    )


def test_after_kill_9_it_starts_again_on_its_port_and_sigterm_lets_requests_finish(
    server: ServerProcess, base: Path
) -> None:
    server.process.kill()
    assert server.process.wait() == -signal.SIGKILL
    with pytest.raises(grpc.RpcError) as raised:
        server.multiply([1.0])
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    with ServerProcess(base, port=server.port) as again:
        assert again.version == 2
        assert again.multiply([1.0]) == [2.0]
        watch = health_pb2_grpc.HealthStub(again.channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        steps = 300_000
        slow = again.predict.future(predict_request({"steps": np.int32(steps)}, "count"), timeout=60)
        again.multiply([1.0])
        assert not slow.done()
        began = time.monotonic()
        assert again.terminate() == 0
        assert time.monotonic() - began < 15  # the open watch does not hold it up for the whole grace of 30 s
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert slow.result().outputs["steps"].int_val == [steps]
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", server.port)) != 0


@pytest.mark.parametrize("content", [None, "empty", "1.copying", "file"])
def test_without_a_version_it_stops_at_once_and_names_the_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    base = tmp_path / "base"
    if content == "file":
        base.write_text("")
    elif content is not None:
        (base / content if content != "empty" else base).mkdir(parents=True)
    assert main([f"--model_base_path={base}", "--port=0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"twotower-model-server: model base path {base}: ")
    assert line.endswith(
        "expected a directory that holds a directory with an integer name for each version, such as 1/"
    )


def test_when_no_version_loads_it_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "7").mkdir()
    handler = signal.getsignal(signal.SIGINT)
    assert main([f"--model_base_path={tmp_path}", "--port=0"]) == 1
    assert signal.getsignal(signal.SIGINT) is handler
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines()[-1].startswith(
        f'twotower-model-server: model "default": nothing under {tmp_path} could be loaded: version 7: Could not find'
    )


def test_flags_are_tensorflow_servings() -> None:
    flags = ["--port=8501", "--model_name=m", "--model_base_path=/models/m", "--file_system_poll_wait_seconds=5"]
    assert parse_flags(flags) == ServerOptions(
        model_base_path="/models/m", model_name="m", port=8501, file_system_poll_wait_seconds=5
    )
    assert parse_flags(["--model_base_path=x"]) == ServerOptions(model_base_path="x", model_name="default", port=8500)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ([], "--model_base_path"),
        (["--model_base_path=x", "--port=65536"], "--port: found 65536; expected 0 to 65535"),
        (["--model_base_path=x", "--grpc_max_threads=-1"], "--grpc_max_threads: found -1; expected 0 or more"),
        (["--model_base_path=x", "--modelname=m"], "--modelname=m"),
    ],
)
def test_a_wrong_flag_is_named(flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        parse_flags(flags)
    assert raised.value.code == 2
    assert complaint in capsys.readouterr().err
