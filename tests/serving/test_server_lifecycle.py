"""The life of a model's versions, in this process, on real SavedModels."""

import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from server_harness import State, predict_request, save_toy, times, write_warm_up
from tensorflow_serving.apis import prediction_log_pb2

from twotower.serving.server.errors import ServingError
from twotower.serving.server.lifecycle import LoadOptions, ModelLifecycle
from twotower.serving.server.predict import predict
from twotower.serving.server.versions import version_directories


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 and 2, saved once; each test copies what it publishes."""
    base = tmp_path_factory.mktemp("exported")
    for version in (1, 2):
        save_toy(base, version, warm_up=[times([1.0])])
    return base


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ModelLifecycle]:
    model = ModelLifecycle("toy", str(tmp_path), options=LoadOptions(max_retries=2, retry_seconds=0))
    yield model
    model.close()


def publish(exported: Path, base: Path, version: int, name: str | None = None) -> Path:
    return Path(shutil.copytree(exported / str(version), base / (name or str(version))))


def answer(model: ModelLifecycle, version: int | None = None) -> float:
    """`version * 1.0` of the version that answers."""
    with model.acquire(version) as servable:
        return float(predict(servable, times([1.0]), None).outputs["y"].float_val[0])


def states(model: ModelLifecycle) -> dict[int, int]:
    return {status.version: status.state for status in model.statuses()}


def test_only_directories_with_integer_names_are_versions(tmp_path: Path) -> None:
    for name in ("1", "-3", "0020", "2.tmp", "v4", "5 ", "٣", "99999999999999999999", ""):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / "7").write_text("a file")
    assert version_directories(str(tmp_path)) == {
        1: str(tmp_path / "1"),
        -3: str(tmp_path / "-3"),
        20: str(tmp_path / "0020"),
    }


def test_versions_are_found_on_tensorflows_own_file_systems() -> None:
    for path in ("ram://models/toy/3", "ram://models/toy/staging"):
        tf.io.gfile.makedirs(path)
    assert version_directories("ram://models/toy/") == {3: "ram://models/toy/3"}
    with pytest.raises(OSError, match="absent"):
        version_directories("ram://models/absent")


def test_a_newer_version_replaces_the_older_and_a_deleted_one_gives_way(
    exported: Path, tmp_path: Path, model: ModelLifecycle
) -> None:
    publish(exported, tmp_path, 1)
    publish(exported, tmp_path, 2, name="2.copying")
    model.refresh()
    assert answer(model) == 1
    (tmp_path / "2.copying").rename(tmp_path / "2")
    model.refresh()
    assert answer(model) == answer(model, version=2) == 2
    assert states(model) == {2: State.AVAILABLE, 1: State.END}
    with pytest.raises(ServingError, match=r"Servable not found for request: Specific\(toy, 1\)"):
        answer(model, version=1)
    shutil.rmtree(tmp_path / "2")
    model.refresh()
    assert answer(model) == 1
    assert states(model) == {2: State.END, 1: State.AVAILABLE}


def test_an_old_version_stays_loaded_until_its_requests_are_done(exported: Path, tmp_path: Path) -> None:
    drained = []
    model = ModelLifecycle("toy", str(tmp_path), on_drained=lambda: drained.append(True))
    publish(exported, tmp_path, 1)
    model.refresh()
    with model.acquire(None) as old:
        publish(exported, tmp_path, 2)
        model.refresh()
        model.refresh()
        assert answer(model) == 2
        assert states(model) == {2: State.AVAILABLE, 1: State.UNLOADING}
        assert predict(old, times([1.0]), None).outputs["y"].float_val == [1]
        assert not drained
    assert drained == [True]
    model.refresh()
    assert states(model) == {2: State.AVAILABLE, 1: State.END}
    with pytest.raises(ServingError):
        predict(old, times([1.0]), None)
    model.close()


def test_a_base_path_that_vanishes_unloads_nothing_but_an_empty_one_does(
    exported: Path, tmp_path: Path, model: ModelLifecycle
) -> None:
    publish(exported, tmp_path, 1)
    model.refresh()
    away = tmp_path.rename(tmp_path.with_name("away"))
    model.refresh()
    assert answer(model) == 1
    away.rename(tmp_path)
    shutil.rmtree(tmp_path / "1")
    model.refresh()
    with pytest.raises(ServingError, match=r"Servable not found for request: Latest\(toy\)"):
        answer(model)


def break_garbage(directory: Path) -> None:
    (directory / "saved_model.pb").write_bytes(b"garbage")


def break_missing(directory: Path) -> None:
    (directory / "saved_model.pb").unlink()


def break_truncated_variables(directory: Path) -> None:
    data = next(directory.glob("variables/variables.data*"))
    data.write_bytes(data.read_bytes()[:2])


def break_warm_up_request(directory: Path) -> None:
    log = prediction_log_pb2.PredictLog(request=predict_request({"z": np.float32(1)}))
    write_warm_up(directory, [prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString()])


def break_warm_up_count(directory: Path) -> None:
    log = prediction_log_pb2.PredictLog(request=times([1.0]))
    write_warm_up(directory, [prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString()] * 1001)


def break_warm_up_kind(directory: Path) -> None:
    log = prediction_log_pb2.PredictionLog(session_run_log=prediction_log_pb2.SessionRunLog())
    write_warm_up(directory, [log.SerializeToString()])


def break_warm_up_record(directory: Path) -> None:
    write_warm_up(directory, [b"not a PredictionLog"])


def break_warm_up_file(directory: Path) -> None:
    (directory / "assets.extra/tf_serving_warmup_requests").write_bytes(b"not a TFRecord, but long enough to be one")


def break_tag(directory: Path) -> None:
    path = directory / "saved_model.pb"
    path.write_bytes(path.read_bytes().replace(b"\x22\x05serve", b"\x22\x05other"))


def break_op(directory: Path) -> None:
    path = directory / "saved_model.pb"
    path.write_bytes(path.read_bytes().replace(b"QueueDequeueV2", b"QueueDequeueV9"))


@pytest.mark.parametrize(
    ("break_it", "code", "message"),
    [
        (break_garbage, "DATA_LOSS", "saved_model.pb"),
        (break_missing, "NOT_FOUND", "Could not find SavedModel .pb or .pbtxt at supplied export directory path"),
        (break_truncated_variables, "OUT_OF_RANGE", "Read less bytes than requested"),
        (break_tag, "NOT_FOUND", "serve"),
        (break_op, "NOT_FOUND", "Op type not registered 'QueueDequeueV9'"),
        (break_warm_up_request, "INVALID_ARGUMENT", "Signature input alias: x"),
        (break_warm_up_count, "INVALID_ARGUMENT", "Number of warmup records exceeds the maximum (1000)"),
        (break_warm_up_kind, "UNIMPLEMENTED", "Unsupported log_type for warmup"),
        (break_warm_up_record, "INVALID_ARGUMENT", "Failed to parse warmup record"),
        (break_warm_up_file, "DATA_LOSS", "Please verify your warmup data is in TFRecord format"),
    ],
)
def test_a_broken_newer_version_is_reported_and_never_served(
    exported: Path, tmp_path: Path, model: ModelLifecycle, break_it: object, code: str, message: str
) -> None:
    publish(exported, tmp_path, 1)
    model.refresh()
    staged = publish(exported, tmp_path, 2, name="staged")
    assert callable(break_it)
    break_it(staged)
    staged.rename(tmp_path / "2")
    model.refresh()
    assert answer(model) == 1
    newest = model.statuses()[0]
    assert (newest.version, newest.state) == (2, State.END)
    assert newest.error is not None
    assert newest.error.code is grpc.StatusCode[code]
    assert message in newest.error.message


def test_a_failed_version_is_tried_again_a_few_times_and_whenever_its_files_change(
    exported: Path, tmp_path: Path, model: ModelLifecycle, caplog: pytest.LogCaptureFixture
) -> None:
    publish(exported, tmp_path, 1)
    broken = publish(exported, tmp_path, 2)
    good = (broken / "saved_model.pb").read_bytes()
    break_garbage(broken)
    for _ in range(6):
        model.refresh()
    failures = [record for record in caplog.records if "version 2 failed to load" in record.message]
    assert len(failures) == 3  # the first attempt and max_load_retries=2 more
    assert answer(model) == 1  # nothing was available, so the older version was loaded
    (broken / "saved_model.pb").write_bytes(good[: len(good) // 2])
    model.refresh()
    (broken / "saved_model.pb").write_bytes(good)
    model.refresh()
    assert answer(model) == 1  # the files still changed between these two looks
    model.refresh()
    assert answer(model) == 2
    assert states(model) == {2: State.AVAILABLE, 1: State.END}


def test_a_replaced_version_leaves_the_memory(exported: Path, tmp_path: Path, model: ModelLifecycle) -> None:
    publish(exported, tmp_path, 1)
    model.refresh()
    with model.acquire(None) as servable:
        old = weakref.ref(servable._graph)
    del servable
    publish(exported, tmp_path, 2)
    model.refresh()
    assert old() is None
