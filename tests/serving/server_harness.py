"""What the model server's tests share: a small SavedModel, warm-up records, and a server in its own process."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

State = get_model_status_pb2.ModelVersionStatus
WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
START_SECONDS = 60


class Toy(tf.Module):  # type: ignore[misc]
    """One signature for each thing that a model may do: arithmetic, lookups, assertions, taking long, never ending."""

    def __init__(self, scale: float, vocabulary: Path) -> None:
        super().__init__()
        self.scale = tf.Variable(scale)
        self.vocabulary = tf.saved_model.Asset(str(vocabulary))
        lines = tf.lookup.TextFileInitializer(
            self.vocabulary,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        self.table = tf.lookup.StaticHashTable(lines, -1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def multiply(self, x: Any) -> dict[str, Any]:
        return {"y": self.scale * x, "half": x / 2}

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec([None], tf.string, name="words"), tf.TensorSpec([], tf.int32, name="k")]
    )
    def lookup(self, words: Any, k: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.debugging.assert_less(k, 4, message="k must be below 4")]):
            ids = self.table.lookup(words)
        return {"ids": ids[:k], "names": tf.strings.join([words, tf.strings.as_string(ids)], "/")[:k], "k": k}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="text")])  # type: ignore[untyped-decorator]
    def fail(self, text: Any) -> dict[str, Any]:
        with tf.control_dependencies([tf.debugging.Assert(False, [text], summarize=-1)]):
            return {"text": tf.identity(text)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, name="steps")])  # type: ignore[untyped-decorator]
    def count(self, steps: Any) -> dict[str, Any]:
        return {"steps": tf.while_loop(lambda i: i < steps, lambda i: (i + 1,), [tf.constant(0)])[0]}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def wait(self, x: Any) -> dict[str, Any]:
        queue = tf.raw_ops.FIFOQueueV2(component_types=[tf.float32])
        return {"x": tf.raw_ops.QueueDequeueV2(handle=queue, component_types=[tf.float32])[0] + x}


def save_toy(base_path: Path, version: int, warm_up: Iterable[predict_pb2.PredictRequest] = ()) -> Path:
    """Publishes a version whose `y` is `version * x`: written under another name, then renamed."""
    staging = base_path / f"staging-{version}"
    staging.mkdir(parents=True)
    vocabulary = base_path / "words.txt"
    vocabulary.write_text("apple\nbread\ncheese\n")
    toy = Toy(float(version), vocabulary)
    signatures = {
        "serving_default": toy.multiply,
        "lookup": toy.lookup,
        "fail": toy.fail,
        "count": toy.count,
        "wait": toy.wait,
    }
    tf.saved_model.save(toy, str(staging), signatures=signatures)
    records = [
        prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
        for request in warm_up
    ]
    if records:
        write_warm_up(staging, [record.SerializeToString() for record in records])
    return staging.rename(base_path / str(version))


def save_examples(base_path: Path, version: int) -> Path:
    """Publishes a TF1 model that parses `tf.train.Example`s: classes and scores, and a regression, of feature `x`."""
    path = base_path / str(version)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        serialized = tf.compat.v1.placeholder(tf.string, [None], "serialized")
        x = tf.io.parse_example(serialized, {"x": tf.io.FixedLenFeature([1], tf.float32, 0.0)})["x"]
        scores = tf.concat([x, version - x], axis=1)
        classes = tf.tile(tf.constant([["yes", "no"]]), [tf.shape(x)[0], 1])
        weight = tf.compat.v1.get_variable("weight", initializer=float(version))
        v1 = tf.compat.v1.saved_model
        given = {"inputs": v1.build_tensor_info(serialized)}

        def signature(method: str, outputs: dict[str, Any]) -> Any:
            infos = {alias: v1.build_tensor_info(tensor) for alias, tensor in outputs.items()}
            return v1.build_signature_def(given, infos, f"tensorflow/serving/{method}")

        session.run(tf.compat.v1.global_variables_initializer())
        builder = v1.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                "serving_default": signature("classify", {"classes": classes, "scores": scores}),
                "scores_only": signature("classify", {"scores": scores}),
                "regress": signature("regress", {"outputs": weight * x}),
                "wide_regress": signature("regress", {"outputs": scores}),
                "no_classes": signature("classify", {"other": scores}),
            },
        )
        builder.save()
    return path


def write_warm_up(directory: Path, records: Iterable[bytes]) -> None:
    path = directory / WARM_UP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def predict_request(
    inputs: dict[str, Any], signature: str = "", version: int | None = None, model: str = "toy"
) -> predict_pb2.PredictRequest:
    spec = model_pb2.ModelSpec(name=model, signature_name=signature)
    if version is not None:
        spec.version.value = version
    return predict_pb2.PredictRequest(
        model_spec=spec, inputs={name: tf.make_tensor_proto(value) for name, value in inputs.items()}
    )


def times(x: list[float], **kwargs: Any) -> predict_pb2.PredictRequest:
    return predict_request({"x": np.array(x, np.float32)}, **kwargs)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """The condition's first true value; fails if it has none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.02)
    return value


class ServerProcess:
    """`python -m twotower.serving.server.main` on a free port, killed when the context ends."""

    def __init__(
        self, base_path: Path | None, *flags: str, port: int = 0, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        command = [sys.executable, "-m", "twotower.serving.server.main", f"--port={port}"]
        if base_path is not None:
            command += [f"--model_base_path={base_path}", "--model_name=toy"]
        command += ["--file_system_poll_wait_seconds=0.1", *flags]
        self._credentials = credentials
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []
        self._drain = threading.Thread(target=self._read_log)
        self._drain.start()

    def __enter__(self) -> "ServerProcess":
        assert self.process.stdout is not None
        killer = threading.Timer(START_SECONDS, self.process.kill)
        killer.start()
        self.ready_line = self.process.stdout.readline().strip()
        killer.cancel()
        found = re.fullmatch(r"serving (?:toy version (\d+)|.*) on 0\.0\.0\.0:(\d+)", self.ready_line)
        if found is None:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not start: {self.ready_line!r}, {self.log}")
        self.version, self.port = int(found[1] or 0), int(found[2])
        # One retry policy for all would hide refused requests, so the channel has none. Connections of its own, because
        # one to a server that was killed on this port waits before it is tried again.
        target = f"localhost:{self.port}"
        options = [
            ("grpc.enable_retries", 0),
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if self._credentials is None:
            self.channel = grpc.insecure_channel(target, options=options)
        else:
            self.channel = grpc.secure_channel(target, self._credentials, options=options)
        self.predict = prediction_service_pb2_grpc.PredictionServiceStub(self.channel).Predict
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait()
        self._drain.join()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip())

    def terminate(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def multiply(self, x: list[float], **kwargs: Any) -> list[float]:
        return list(self.predict(times(x, **kwargs), timeout=10).outputs["y"].float_val)

    def states(self, model: str = "toy") -> dict[int, int]:
        return {entry.version: entry.state for entry in self.statuses(model)}

    def statuses(self, model: str = "toy") -> list[Any]:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name=model))
        reply = model_service_pb2_grpc.ModelServiceStub(self.channel).GetModelStatus(request, timeout=10)
        return list(reply.model_version_status)

    def health(self) -> int:
        request = health_pb2.HealthCheckRequest()
        return int(health_pb2_grpc.HealthStub(self.channel).Check(request, timeout=10).status)
