"""Skew: logged requests of the tiny shop beside its training statistics."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tfx.orchestration import metadata
from tfx.types import artifact_utils, standard_artifacts
from tiny_shop import DAY, SPEC, SPLIT, USERS, Shop

import twotower_client
from twotower.features import records
from twotower.features.errors import InputError
from twotower.pipeline import cli
from twotower.pipeline.logged_queries import queries
from twotower.pipeline.prediction_logs import Logged
from twotower.serving.requests import query_spec
from twotower.serving.server.metrics import Metrics
from twotower.serving.server.model_config import LogConfig
from twotower.serving.server.request_log import RequestLog
from twotower_client.inputs import query_columns
from twotower_client.tensors import encode

User = dict[str, Any]
Change = Callable[[User], None]
STORES = [store for user in USERS for store in user["context_store"]]
QUERIES = len(USERS) * len(STORES)


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """StatisticsGen's output of the shop's train split."""
    folder = tmp_path_factory.mktemp("statistics")
    examples = folder / "train.tfrecord"
    with tf.io.TFRecordWriter(str(examples)) as writer:
        for user in USERS:
            writer.write(records.serialize(user))
    (folder / "Split-train").mkdir()
    found = tfdv.generate_statistics_from_tfrecord(str(examples))
    (folder / "Split-train" / "FeatureStats.pb").write_bytes(found.SerializeToString())
    return folder


@pytest.fixture
def out(tmp_path: Path, shop: Shop, statistics: Path) -> Path:
    """The folder of a run whose metadata store knows the steps that skew reads."""
    store = make_store(tmp_path)
    compared = standard_artifacts.ExampleStatistics()
    compared.uri, compared.split_names = str(statistics), artifact_utils.encode_split_names(["train"])
    graph = standard_artifacts.TransformGraph()
    graph.uri = str(shop.graph)
    complete(store, "StatisticsGen", {"statistics": compared})
    complete(store, "Transform", {"transform_graph": graph})
    complete(store, "Compose", {})
    return tmp_path


def make_store(out: Path) -> metadata_store.MetadataStore:
    return metadata_store.MetadataStore(metadata.sqlite_metadata_connection_config(str(out / "metadata.sqlite")))


def complete(store: metadata_store.MetadataStore, step: str, outputs: dict[str, Any]) -> None:
    """Register a completed step of the pipeline with its outputs."""
    execution = metadata_store_pb2.Execution(
        type_id=store.put_execution_type(metadata_store_pb2.ExecutionType(name=step)),
        last_known_state=metadata_store_pb2.Execution.COMPLETE,
    )
    execution.custom_properties["spec"].string_value = SPEC.model_dump_json(by_alias=True)
    pairs = []
    for key, artifact in outputs.items():
        artifact.mlmd_artifact.type_id = store.put_artifact_type(artifact.artifact_type)
        event = metadata_store_pb2.Event(type=metadata_store_pb2.Event.OUTPUT)
        event.path.steps.add().key = key
        event.path.steps.add().index = 0
        pairs.append((artifact.mlmd_artifact, event))
    contexts = []
    for kind, name in {"pipeline": SPEC.name, "node": f"{SPEC.name}.{step}"}.items():
        type_id = store.put_context_type(metadata_store_pb2.ContextType(name=kind))
        contexts.append(metadata_store_pb2.Context(type_id=type_id, name=name))
    store.put_execution(execution, pairs, contexts, reuse_context_if_already_exist=True)


def one(values: Sequence[Any], missing: Any) -> Any:
    return values[0] if len(values) else missing


def row(values: Sequence[Any], width: int, missing: Any) -> list[Any]:
    return [*values, *[missing] * (width - len(values))]


def request(users: Sequence[User], signature: str = "recommend") -> predict_pb2.PredictRequest:
    """What a caller sends for users as ingest knows them."""
    longest = max((len(user["history_item_id"]) for user in users), default=0)
    columns = {
        "user_id": np.array([one(user["user_id"], b"") for user in users], object),
        "user_town": np.array([one(user.get("user_town", []), b"") for user in users], object),
        "user_age": np.array([one(user.get("user_age", []), np.nan) for user in users], np.float32),
        # Wider than the spec's max_length, as the graph takes it.
        "user_tastes": np.array([row(user.get("user_tastes", []), 3, b"") for user in users], object),
        "user_face": np.array([row(user.get("user_face", []), 2, np.nan) for user in users], np.float32),
        "user_joined": np.array([one(user.get("user_joined", []), 0) for user in users], np.int64),
        "history_item_ids": np.array([row(user["history_item_id"], longest, b"") for user in users], object),
        "history_times": np.array([row(user["history_time"], longest, 0) for user in users], np.int64),
        "time": np.array([user.get("time", SPLIT) for user in users], np.int64),
        "context_store": np.array([one(user["context_store"], b"") for user in users], object),
    }
    found = predict_pb2.PredictRequest()
    found.model_spec.name, found.model_spec.signature_name = "recommender", signature
    for name, column in columns.items():
        found.inputs[name].CopyFrom(tf.make_tensor_proto(column))
    return found


def log(prefix: Path, requests: Sequence[predict_pb2.PredictRequest]) -> None:
    """Have the server's own class write the records."""
    log = RequestLog(Metrics())
    config = LogConfig(str(prefix), 0.25)
    log.configure({"recommender": config})
    for asked in requests:
        log.add(config, "recommender", 7, "predict_log", asked, predict_pb2.PredictResponse())
    log.close()


def asked(change: Change | None = None) -> list[predict_pb2.PredictRequest]:
    """Every training user asks once from every store of training's events; `change` makes them others."""
    found = []
    for store in STORES:
        users = [{**user, "context_store": [store]} for user in USERS]
        for user in users:
            if change is not None:
                change(user)
        # One at a time, and several at once, by both names of the signature.
        found += [request(users[:1]), request(users[1:], "serving_default")]
    return found


def compare(out: Path, *options: str) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """The exit status, what was written, and its features by name."""
    status = cli.main(["skew", "--logs", str(out / "log-"), "--out", str(out), *options])
    written = json.loads((out / "skew.json").read_text())
    return status, written, {feature["feature"]: feature for feature in written["features"]}


def fails(out: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert cli.main(["skew", "--logs", str(out / "log-"), "--out", str(out), *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


class TestFindings:
    def test_none_where_they_ask_as_they_were_trained(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log(out / "log-a", asked())
        log(out / "log-b", asked())
        (out / ".log-c.partial").write_bytes(b"half a record")
        status, written, features = compare(out)
        assert status == 0
        assert {feature["verdict"] for feature in features.values()} == {"ok"}
        assert (written["requests"], written["queries"], written["users"]) == (4 * len(STORES), 2 * QUERIES, 5)
        assert len(written["files"]) == 2
        assert written["versions"] == {"recommender 7": 4 * len(STORES)}
        assert written["sampling_rates"] == [0.25]
        assert written["times"] == [SPLIT, SPLIT]
        # Of 13 events one is with an item that is not in the catalogue.
        assert features["unknown_items"]["distance"] == pytest.approx(1 / 13)
        assert features["unknown_users"]["distance"] == 0
        for name in ("user_town", "user_age", "user_tastes", "user_face", "user_joined", "context_store"):
            assert features[name]["serving_missing"] == pytest.approx(features[name]["training_missing"])
        # Of five users two have a town and one has no history; of 13 events two have no store.
        assert features["user_town"]["training_missing"] == pytest.approx(3 / 5)
        assert features["history_item_id"]["training_missing"] == pytest.approx(1 / 5)
        assert features["context_store"]["training_missing"] == pytest.approx(2 / 13)
        for name in ("user_town", "user_age", "history_item_id"):
            assert features[name]["distance"] == pytest.approx(0, abs=1e-9)
        assert "recommender 7" in capsys.readouterr().out

    def test_a_category_with_other_shares(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def moved(user: User) -> None:
            if "user_town" in user:
                user["user_town"] = [b"Ulm"]

        log(out / "log-", asked(moved))
        status, _, features = compare(out)
        assert status == 1
        # Half of the known towns were Bonn.
        assert features["user_town"]["distance"] == pytest.approx(0.5)
        assert found(features) == {"user_town": "other values"}
        assert "other values" in capsys.readouterr().out
        assert compare(out, "--threshold", "user_town=0.6")[0] == 0

    def test_a_feature_that_is_left_out(self, out: Path) -> None:
        log(out / "log-", asked(lambda user: user.pop("user_town", None)))
        status, _, features = compare(out)
        assert status == 1
        assert features["user_town"]["serving_missing"] == 1
        assert features["user_town"]["distance"] is None
        assert found(features) == {"user_town": "missing more often"}

    def test_a_context_that_is_left_out(self, out: Path) -> None:
        log(out / "log-", asked(lambda user: user.update(context_store=[])))
        assert found(compare(out)[2]) == {"context_store": "missing more often, other values"}

    def test_numbers_that_are_shifted(self, out: Path) -> None:
        def older(user: User) -> None:
            user["user_age"] = [age + 30 for age in user.get("user_age", [])]

        log(out / "log-", asked(older))
        status, _, features = compare(out)
        assert status == 1
        assert found(features) == {"user_age": "other values"}

    def test_histories_cut_short(self, out: Path) -> None:
        def short(user: User) -> None:
            user["history_item_id"], user["history_time"] = user["history_item_id"][-1:], user["history_time"][-1:]

        log(out / "log-", asked(short))
        assert found(compare(out)[2])["history_length"] == "other values"

    def test_histories_longer_than_the_ranker_reads_are_as_long(self, out: Path) -> None:
        def long(user: User) -> None:
            if len(user["history_item_id"]) == 7:
                user["history_item_id"] = user["history_item_id"] * 4
                user["history_time"] = user["history_time"] * 4

        log(out / "log-", asked(long))
        assert compare(out)[2]["history_length"]["distance"] < 0.1

    def test_ids_in_another_form(self, out: Path) -> None:
        def renamed(user: User) -> None:
            user["user_id"] = [b"0" + user["user_id"][0]]
            user["history_item_id"] = [b"0" + item for item in user["history_item_id"]]

        log(out / "log-", asked(renamed))
        features = compare(out)[2]
        assert features["unknown_items"]["verdict"] == features["unknown_users"]["verdict"] == "not known"


def found(features: dict[str, Any]) -> dict[str, str]:
    return {name: feature["verdict"] for name, feature in features.items() if feature["verdict"] != "ok"}


class TestQueries:
    def test_as_the_graph_reads_them(self) -> None:
        asking = {**USERS[0], "user_tastes": [b"", b"hot", b"third"], "time": SPLIT - 10 * DAY}
        record = prediction_log_pb2.PredictionLog()
        record.predict_log.request.CopyFrom(request([asking, USERS[2]]))
        first, second = queries(Logged(Path("file"), 1, record), SPEC)
        # The events of ten days before and later have not happened; of the tastes two count, and one is empty.
        assert first.record["history_item_id"] == [b"i1", b"i2", b"i3"]
        assert first.record["user_tastes"] == [b"hot"]
        assert first.record["user_age"] == [20.0]
        assert second.record["user_age"] == second.record["user_joined"] == second.record["history_item_id"] == []
        assert second.record["context_store"] == [b""]

    def test_a_query_without_a_time_has_its_whole_history(self) -> None:
        record = prediction_log_pb2.PredictionLog()
        record.predict_log.request.CopyFrom(request([{**USERS[0], "time": 0}]))
        [query] = queries(Logged(Path("file"), 1, record), SPEC)
        assert len(query.record["history_item_id"]) == 7

    def test_as_the_client_encodes_them(self) -> None:
        columns = query_columns([twotower_client.Query("u3"), twotower_client.Query("u1", [("i1", 5)], time=9)])
        record = prediction_log_pb2.PredictionLog()
        for name, column in columns.items():
            kind = query_spec(SPEC).get(name, tf.TensorSpec([], tf.string)).dtype
            encoded = encode(column, kind.as_datatype_enum).SerializeToString()
            record.predict_log.request.inputs[name].ParseFromString(encoded)
        first, second = queries(Logged(Path("file"), 1, record), SPEC)
        assert (first.user_id, first.record["history_item_id"]) == (b"u3", [])
        assert (second.user_id, second.time, second.record["history_item_id"]) == (b"u1", 9, [b"i1"])

    def test_inputs_of_different_lengths(self) -> None:
        record = prediction_log_pb2.PredictionLog()
        record.predict_log.request.CopyFrom(request(USERS))
        record.predict_log.request.inputs["context_store"].CopyFrom(tf.make_tensor_proto([b"s1"]))
        with pytest.raises(InputError, match="file: record 1: inputs of different numbers of rows or events"):
            queries(Logged(Path("file"), 1, record), SPEC)


class TestErrors:
    def test_no_file(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (out / ".log-1.tfrecord.partial").write_bytes(b"")
        assert f"{out / 'log-'}: no file is called that or begins with it" in fails(out, capsys)

    def test_no_request_for_a_list(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log(out / "log-", [request(USERS, "rank")] * 3)
        assert "none of 3 records is a request of the signature 'recommend'" in fails(out, capsys)

    def test_a_damaged_record(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log(out / "log-", asked()[:3])
        [file] = out.glob("log-*")
        file.write_bytes(file.read_bytes()[:-5])
        assert f"{file}: record 3: not as it was written" in fails(out, capsys)
        assert not (out / "skew.json").exists()

    def test_a_record_of_something_else(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with tf.io.TFRecordWriter(str(out / "log-1")) as writer:
            writer.write(prediction_log_pb2.PredictionLog().SerializeToString())
            writer.write(b"no message")
        assert f"{out / 'log-1'}: record 2: no PredictionLog" in fails(out, capsys)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("user_age", "input 'user_age': found int32 (2,), expected float32 (None,)"),
            ("history_times", "input 'history_times': found int32 (2,), expected int64 (None, None)"),
        ],
    )
    def test_a_record_whose_inputs_do_not_fit(
        self, out: Path, capsys: pytest.CaptureFixture[str], name: str, expected: str
    ) -> None:
        broken = request(USERS[:1])
        assert name in broken.inputs
        broken.inputs[name].CopyFrom(tf.make_tensor_proto([1, 2]))
        log(out / "log-", [*asked()[:1], broken])
        assert f"record 2: {expected}" in fails(out, capsys)

    @pytest.mark.parametrize(
        ("option", "expected"),
        [
            ("user_agee=0.1", "--threshold user_agee=0.1: no such feature; expected one of user_town, "),
            ("user_age=many", "--threshold user_age=many: found 'many', expected a number from 0 to 1"),
            ("user_age", "--threshold user_age: found '', expected a number from 0 to 1"),
        ],
    )
    def test_a_threshold(self, out: Path, capsys: pytest.CaptureFixture[str], option: str, expected: str) -> None:
        log(out / "log-", asked()[:1])
        assert expected in fails(out, capsys, "--threshold", option)

    def test_no_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        log(tmp_path / "log-", asked()[:1])
        assert f"{tmp_path}: no run is there" in fails(tmp_path, capsys)

    def test_a_run_without_statistics(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        complete(make_store(tmp_path), "Compose", {})
        log(tmp_path / "log-", asked()[:1])
        assert "the step StatisticsGen of tiny has not completed" in fails(tmp_path, capsys)
