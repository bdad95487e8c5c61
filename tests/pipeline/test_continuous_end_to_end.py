"""The same command night after night: warm start, drift, the gate, retention, and a server that goes on answering."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2

from twotower_client import Recommender

DAY = 86_400
USERS, KINDS, OWN = 60, 6, 8
# Midnight.
START = 1_690_416_000
DAYS = 84
SPEC: dict[str, Any] = {
    "name": "shop",
    "interactions": {"path": "events/*.csv", "user": "user", "item": "item", "time": "time"},
    "items": {"from": "interactions", "id": "item", "duplicates": "last", "features": {"kind": {"kind": "category"}}},
    "split": {"kind": "rolling", "test_days": 14, "train_days": 60},
    "retrieval": {
        "embedding_dim": 8,
        "graph_factors": 8,
        "tower_units": [16],
        "min_id_count": 1,
        "batch_size": 256,
        "uniform_negatives": 32,
        "epochs": 4,
        "events_per_epoch": 20_000,
        "warm_start": True,
        "warm_epochs": 1,
    },
    "ranking": {"candidates": 20, "snapshots": 1, "horizon_days": 14, "list_size": 32, "epochs": 8},
    "evaluation": {
        "cutoffs": [5], "min_slice_users": 1000, "resamples": 10, "retrieval_task": "all", "example_users": 1,
        "tolerance": 0.5,
    },
    "serving": {"exact_below": 1000, "index": "portable"},
    "drift": {"on_drift": "stop", "threshold": 0.3, "thresholds": {"history_length": 1}},
    "retention": {"versions": 1, "runs": 1},
}  # fmt: skip

pytestmark = pytest.mark.slow


def events(first: int, last: int, new: int = 0) -> pd.DataFrame:
    """A basket a user every six days, of one kind, a favourite each time; ``new`` more users buy one more item."""
    random = np.random.default_rng(5)
    rows = []
    for user in range(USERS + new):
        kind, favourite = user % KINDS, user % OWN
        for day in range(user % 6, DAYS + 14, 6):
            chosen = {favourite, *random.choice(OWN, 2, replace=False).tolist()}
            if first <= day < last:
                names = [f"k{kind}_{item}" for item in sorted(chosen)] + [f"k{kind}_new"] * (user >= USERS)
                rows += [(f"u{user}", name, START + day * DAY, f"kind {kind}") for name in names]
    return pd.DataFrame(rows, columns=["user", "item", "time", "kind"])


@dataclass(frozen=True)
class Night:
    """One run: its exit status and what it said, and the versions that are there after it."""

    status: int
    said: str
    versions: list[str]
    list_after: list[str]


# One process for all nights: importing TFX takes 20 seconds.
COMMANDS = """
import sys
from twotower.pipeline.cli import main
for line in sys.stdin:
    print(f"exit status {main(line.split())}", flush=True)
"""


@dataclass(frozen=True)
class Shop:
    folder: Path
    process: subprocess.Popen[str]
    nights: list[Night]

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def store(self) -> metadata_store.MetadataStore:
        config = metadata_store_pb2.ConnectionConfig()
        config.sqlite.filename_uri = str(self.out / "metadata.sqlite")
        return metadata_store.MetadataStore(config)

    @property
    def versions(self) -> list[str]:
        return sorted(path.name for path in (self.out / "serving" / "recommender").iterdir())

    def run(self) -> tuple[int, str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(f"run --spec {self.folder / 'spec.yaml'} --out {self.out}", file=self.process.stdin, flush=True)
        said = ""
        for line in self.process.stdout:
            if line.startswith("exit status "):
                return int(line.split()[-1]), said
            said += line
        raise AssertionError(f"the process ended: {said}")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Three nights: the first, one with more users and items, and one whose items have all become of one kind."""
    folder = tmp_path_factory.mktemp("continuous")
    (folder / "events").mkdir()
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDS],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    shop = Shop(folder, process, [])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = int(free.getsockname()[1])
    server = None
    # The new users came in the days that the second night's training has and the first one's has not.
    late = events(DAYS - 14, DAYS, 12)[lambda table: table.user.str[1:].astype(int) >= USERS]
    tables = {
        "1": events(0, DAYS),
        "2": pd.concat([late, events(DAYS, DAYS + 6, 12)]),
        "3": events(DAYS + 6, DAYS + 8, 12),
    }
    try:
        with Recommender(f"localhost:{port}", timeout=60) as client:
            for name, table in tables.items():
                table.to_csv(folder / "events" / f"{name}.csv", index=False)
                if name == "3":
                    for file in (folder / "events").iterdir():
                        pd.read_csv(file).assign(kind="one kind").to_csv(file, index=False)
                status, said = shop.run()
                assert status in (0, 3), said
                if server is None:
                    command = [sys.executable, "-m", "twotower.pipeline.cli", "serve", "--port", str(port)]
                    server = subprocess.Popen([*command, "--model-dir", str(shop.out / "serving" / "recommender")])
                    client.wait_until_ready(timeout=300)
                newest = int(shop.versions[-1])
                for _ in range(240):
                    answer = client.recommend("u1", [("k1_1", START + 80 * DAY)], k=5)
                    if answer.model_version == newest:
                        break
                    time.sleep(0.5)
                assert answer.model_version == newest
                shop.nights.append(
                    Night(status, " ".join(said.split()), shop.versions, [item.item_id for item in answer.items])
                )
        yield shop
    finally:
        process.kill()
        process.wait()
        if server is not None:
            server.terminate()
            assert server.wait(timeout=120) == 0


def day(offset: int) -> str:
    return f"{pd.Timestamp(START + offset * DAY, unit='s'):%Y-%m-%d}"


def test_the_window_rolls_with_the_newest_event(shop: Shop) -> None:
    for night, last in zip(shop.nights, (DAYS, DAYS + 6, DAYS + 8), strict=True):
        test, train = day(last - 14), day(last - 74)
        assert f"trained on events from {train} to before {test}, tested from {test} on, 14 days" in night.said
    report = (shop.out / "report.html").read_text()
    assert f"test from {day(DAYS + 8 - 14)}, trained on {day(DAYS + 8 - 74)} and after" in report


def test_the_second_night_starts_warm(shop: Shop) -> None:
    first, second, third = shop.nights
    assert "cold start: no earlier model is blessed yet" in first.said
    assert "epoch 4/4" in first.said
    assert "warm start: user_ids 60 rows carried" in second.said
    assert re.search(r"item_ids \d+ rows carried, [1-9]\d* new, 0 gone", second.said)
    assert "epoch 1/1" in second.said
    assert "warm start:" in third.said


def test_the_base_model_is_an_input_of_the_trainer(shop: Shop) -> None:
    store = shop.store
    trainings = store.get_executions_by_context(store.get_context_by_type_and_name("node", "shop.Trainer.retrieval").id)
    bases, models = [], []
    for training in sorted(trainings, key=lambda one: one.id):
        events = store.get_events_by_execution_ids([training.id])
        keys = {(event.type, event.path.steps[0].key): event.artifact_id for event in events}
        bases.append(keys.get((metadata_store_pb2.Event.INPUT, "base_model")))
        models.append(keys[metadata_store_pb2.Event.OUTPUT, "model"])
    # The third night goes on from the second's as well: nothing else was blessed.
    assert bases == [None, *models[:2]]


def test_no_push_when_the_gate_says_no(shop: Shop) -> None:
    first, second, third = shop.nights
    assert (first.status, second.status, third.status) == (0, 0, 3)
    assert "drift since the last blessed run: item_kind: other values, L-infinity" in third.said
    assert "not blessed, not pushed: drift since the last blessed run: item_kind" in third.said
    assert third.versions == second.versions
    assert third.list_after == second.list_after
    assert "since the last blessed run" in (shop.out / "report.html").read_text()


def test_only_the_newest_is_kept_and_the_server_answers_with_it(shop: Shop) -> None:
    first, second, _ = shop.nights
    assert len(first.versions) == len(second.versions) == 1
    assert first.versions != second.versions
    assert f"retention: deleted version {first.versions[0]}" in second.said
    assert len(second.list_after) == 5


def test_old_artifacts_are_gone_from_the_disk_and_marked_so(shop: Shop) -> None:
    store = shop.store
    live = {one.uri for one in store.get_artifacts() if one.state == metadata_store_pb2.Artifact.LIVE}
    deleted = {one.uri for one in store.get_artifacts() if one.state == metadata_store_pb2.Artifact.DELETED}
    there = {str(path) for path in shop.out.glob("pipeline/*/[a-z]*/*")}
    assert there <= live
    assert deleted
    assert not there & deleted
    # The last blessed run's and the last run's models, and what the former went on from.
    assert len(list(shop.out.glob("pipeline/Trainer.retrieval/model/*"))) == 3
    assert len(list(shop.out.glob("pipeline/Ingest/examples/*"))) == 2
    assert not (shop.out / ".retired").exists()


def test_the_same_night_again_comes_from_the_cache(shop: Shop) -> None:
    status, said = shop.run()
    assert status == 3
    found = dict(re.findall(r"^\s*\d+/\d+ (\S+)\n(?:    \S.*\n)*      (ran|cached|failed) in", said, re.MULTILINE))
    assert set(found.values()) == {"cached"}
    assert re.search(r"LastBlessed\n(?:    \S.*\n)*      looked up in", said)
