"""Training in a cluster: processes of this machine, with the addresses in ``TF_CONFIG``, against one process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cluster_gradients
import numpy as np
import numpy.typing as npt
import pytest
import tiny_shop
from tfx.components.trainer.fn_args_utils import FnArgs

from twotower.features.errors import InputError
from twotower.features.model_choices import TwoTower
from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.cluster import Cluster, ClusterError, wait_for
from twotower.models.cluster_process import TASK_FILE
from twotower.models.queries import Queries
from twotower.models.replicas import check_shares
from twotower.models.retrieval_task import RetrievalTask
from twotower.models.retrieval_trainer import run_fn
from twotower.models.retrievers import fit
from twotower.models.training import CURVE_FILE
from twotower.pipeline.worker import cluster_folder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Importing TensorFlow takes most of it where the machine is busy.
LIMIT = 300
EPOCHS = 4
# What does not depend on which process draws it, so that the curves can be compared number by number.
SETTINGS = {
    **tiny_shop.SPEC.retrieval.model_dump(mode="json"),
    "batch_size": 64,
    "epochs": EPOCHS,
    "events_per_epoch": 64 * 25,
    "uniform_negatives": 0,
    "id_dropout": 0.0,
    "learning_rate": 0.01,
}

# Of the last epoch's loss over seeds 1 to 8 in one process, with uniform negatives and id dropout; the first's is 1.7.
SEEDS_MEAN, SEEDS_DEVIATION = 0.29, 0.12


def addresses(jobs: Mapping[str, int]) -> dict[str, list[str]]:
    """Free ports for so many processes of each job."""
    with ExitStack() as open_sockets:
        found: dict[str, list[str]] = {}
        for job, count in jobs.items():
            for _ in range(count):
                free = open_sockets.enter_context(socket.socket())
                free.bind(("localhost", 0))
                found.setdefault(job, []).append(f"localhost:{free.getsockname()[1]}")
        return found


def config(jobs: Mapping[str, list[str]], job: str, index: int) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})


@contextmanager
def processes(
    jobs: Mapping[str, list[str]], command: list[str], without: str = ""
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The command once for each task; ``{task}`` in it is its name. None outlives the block, or twice the limit."""
    started: dict[str, subprocess.Popen[str]] = {}

    def kill() -> None:
        for process in started.values():
            process.kill()

    late = threading.Timer(2 * LIMIT, kill)
    late.start()
    try:
        for job, found in jobs.items():
            for index in range(0 if job == without else len(found)):
                environment = {
                    **os.environ,
                    "TF_CONFIG": config(jobs, job, index),
                    "PYTHONPATH": str(ROOT / "tests/models"),
                }
                own = [part.replace("{task}", f"{job}{index}") for part in command]
                started[f"{job}{index}"] = subprocess.Popen(
                    own,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    stderr=subprocess.DEVNULL,
                )
        yield started
    finally:
        late.cancel()
        kill()
        for process in started.values():
            process.wait()


def ended(started: Mapping[str, subprocess.Popen[str]]) -> dict[str, tuple[int, str]]:
    """Each process's exit status and what it said, within the limit."""
    until = time.monotonic() + LIMIT
    found = {}
    for name, process in started.items():
        # Not communicate, which closes the standard input: a cluster's process ends when that does.
        status = process.wait(timeout=max(1.0, until - time.monotonic()))
        assert process.stdout is not None
        found[name] = status, process.stdout.read()
    return found


def task_of(shop: tiny_shop.Shop, folder: Path, **changed: Any) -> RetrievalTask:
    whole = tiny_shop.SPEC.model_dump(mode="json", by_alias=True)
    whole["seed"] = changed.pop("seed", whole["seed"])
    whole["retrieval"] = {**SETTINGS, **changed}
    spec = Spec.model_validate(whole).model_dump_json(by_alias=True)
    return RetrievalTask(spec, str(shop.graph), str(shop.examples), str(folder / "run"), str(folder / "model"))


def curve(folder: Path, of: str = "loss") -> list[float]:
    return [entry[of] for entry in json.loads((folder / "run" / CURVE_FILE).read_text(encoding="utf-8"))]


def alone(shop: tiny_shop.Shop, folder: Path, **changed: Any) -> list[float]:
    task = task_of(shop, folder, **changed)
    task.save(fit(task.data(task.run)))
    return curve(folder)


def vectors(shop: tiny_shop.Shop, folder: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Of a saved model: its items' [items, dim] and its users' [users, dim]."""
    data = shop.data()
    queries = Queries(tiny_shop.SPEC, data.users("train"), len(data.item_ids()))
    retriever = TowerRetriever(str(folder / "model"), data.catalogue(), queries)
    return retriever.items, retriever.embed_latest(np.arange(len(tiny_shop.USERS)), tiny_shop.SPLIT)


def assert_same_towers(shop: tiny_shop.Shop, ours: Path, expected: Path) -> None:
    """But for what all items have in common: no score depends on it, so that its gradient is rounding, by which Adam
    moves it all the same.
    """
    (our_items, our_users), (items, users) = vectors(shop, ours), vectors(shop, expected)
    np.testing.assert_allclose(our_items - our_items.mean(axis=0), items - items.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(our_users, users, atol=1e-3)


def member(folder: Path) -> list[str]:
    return [sys.executable, "-m", "twotower.models.cluster_member", str(folder / TASK_FILE), str(LIMIT)]


def together(shop: tiny_shop.Shop, folder: Path, jobs: Mapping[str, int], **changed: Any) -> dict[str, tuple[int, str]]:
    task_of(shop, folder, **changed).write(folder / TASK_FILE)
    with processes(addresses(jobs), member(folder)) as started:
        return ended(started)


def test_a_trainer_step_and_a_worker_train_as_one_process_does(
    shop: tiny_shop.Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    expected = alone(shop, one)
    task = task_of(shop, two, distribution={"strategy": "multi_worker"})
    jobs = addresses({"chief": 1, "worker": 1})
    monkeypatch.setenv("TF_CONFIG", config(jobs, "chief", 0))
    command = [sys.executable, "-m", "twotower.pipeline.cli", "worker", "--out", str(two)]
    with processes(jobs, command, without="chief") as started:
        run_fn(
            FnArgs(
                transform_graph_path=task.graph,
                train_files=[str(shop.examples / "Split-train" / "*")],
                model_run_dir=task.run,
                serving_model_dir=task.model,
                custom_config={"spec": task.spec, "cluster_folder": str(cluster_folder(two))},
            )
        )
        assert {status for status, _ in ended(started).values()} == {0}
    np.testing.assert_allclose(curve(two), expected, rtol=1e-4)
    assert expected[0] - expected[-1] > 0.1
    # The chief's model is saved once, whole.
    assert_same_towers(shop, two, one)


def test_gradients_of_two_replicas_are_those_of_the_whole_step(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster_gradients", str(tmp_path / "{task}.npz")]
    with processes(addresses({"worker": 2}), command) as started:
        found = ended(started)
    assert {status for status, _ in found.values()} == {0}
    expected = cluster_gradients.moved(0, 1)
    for name in started:
        with np.load(tmp_path / f"{name}.npz") as saved:
            assert len(saved.files) == len(expected) > 8
            for key, whole in zip(saved.files, expected, strict=True):
                np.testing.assert_allclose(saved[key], whole, rtol=2e-4, atol=2e-5)


def test_parameter_servers_train_to_the_same_loss(shop: tiny_shop.Shop, tmp_path: Path) -> None:
    changed = {"uniform_negatives": 8, "id_dropout": 0.1}
    folder = tmp_path / "servers"
    # A shard is at least 100 bytes: every table of vectors is split over both servers.
    distribution = {"strategy": "parameter_server", "shard_mb": 1e-4}
    found = together(shop, folder, {"chief": 1, "worker": 2, "ps": 2}, distribution=distribution, **changed)
    assert {status for status, _ in found.values()} == {0}, found
    # Neither the order of the steps nor their lateness is the same twice: held to the noise of one process's seeds.
    assert abs(curve(folder)[-1] - SEEDS_MEAN) < 4 * SEEDS_DEVIATION
    items, users = vectors(shop, folder)
    assert np.isfinite(items).all()
    assert np.isfinite(users).all()


def test_replicas_stop_early_as_one_process_does(shop: tiny_shop.Shop, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    # One user buys something new in the last two days; the first epochs rank it best.
    changed = {"validation_days": 2, "epochs": 12}
    expected = alone(shop, one, **changed)
    assert len(expected) < 12
    distribution = {"strategy": "multi_worker"}
    found = together(shop, two, {"chief": 1, "worker": 1}, distribution=distribution, **changed)
    assert {status for status, _ in found.values()} == {0}, found
    np.testing.assert_allclose(curve(two), expected, rtol=1e-4)
    np.testing.assert_allclose(curve(two, "ndcg"), curve(one, "ndcg"))
    assert_same_towers(shop, two, one)


def test_parameter_servers_stop_early_and_keep_the_best_weights(shop: tiny_shop.Shop, tmp_path: Path) -> None:
    changed = {"validation_days": 2, "epochs": 12, "distribution": {"strategy": "parameter_server", "shard_mb": 1e-4}}
    found = together(shop, tmp_path, {"chief": 1, "worker": 1, "ps": 2}, **changed)
    assert {status for status, _ in found.values()} == {0}, found
    metric = curve(tmp_path, "ndcg")
    best = int(np.argmax(metric)) + 1
    # Two epochs without a gain, and no more.
    assert len(metric) == min(12, best + 2)
    assert f"kept epoch {best}, validation NDCG {max(metric):.4f}" in found["chief0"][1]
    assert np.isfinite(vectors(shop, tmp_path)[0]).all()


def test_a_lost_worker_ends_the_training(shop: tiny_shop.Shop, tmp_path: Path) -> None:
    endless = {"epochs": 100_000, "distribution": {"strategy": "multi_worker"}}
    task_of(shop, tmp_path, **endless).write(tmp_path / TASK_FILE)
    with processes(addresses({"chief": 1, "worker": 1}), member(tmp_path)) as started:
        chief = started["chief0"]
        assert chief.stdout is not None
        assert any("epoch 2/" in line for line in chief.stdout)
        started["worker0"].send_signal(signal.SIGKILL)
        assert chief.wait(timeout=LIMIT) == 1
        assert "a process of the cluster was lost" in chief.stdout.read().strip().splitlines()[-1]
    assert not (tmp_path / "model").exists()


def test_parameter_servers_do_without_a_lost_worker_but_not_without_a_server(
    shop: tiny_shop.Shop, tmp_path: Path
) -> None:
    endless = {"epochs": 100_000, "distribution": {"strategy": "parameter_server", "shard_mb": 1e-4}}
    task_of(shop, tmp_path, **endless).write(tmp_path / TASK_FILE)
    with processes(addresses({"chief": 1, "worker": 2, "ps": 2}), member(tmp_path)) as started:
        chief = started["chief0"]
        assert chief.stdout is not None
        lines = iter(chief.stdout)
        assert any("epoch 1/" in line and "examples/s" in line for line in lines)
        started["worker1"].send_signal(signal.SIGKILL)
        assert any("epoch 5/" in line and "examples/s" in line for line in lines)
        started["ps1"].send_signal(signal.SIGKILL)
        last = [line.strip() for line in lines][-1]
        assert chief.wait(timeout=LIMIT) == 1
    assert "a process of the cluster was lost" in last
    assert not (tmp_path / "model").exists()


JOBS = {"chief": ["a:1"], "worker": ["b:1"]}


class TestCluster:
    def test_who_is_the_chief(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TF_CONFIG", config(JOBS, "worker", 0))
        cluster = Cluster.of_environment()
        assert (cluster.chief, cluster.is_chief, cluster.strategy) == ("a:1", False, "multi_worker")
        monkeypatch.setenv("TF_CONFIG", config({"worker": ["b:1", "c:1"]}, "worker", 0))
        assert Cluster.of_environment().is_chief
        with pytest.raises(InputError, match="found parameter_server, but TF_CONFIG has the jobs worker"):
            Cluster.of_environment().check_strategy("parameter_server")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "not set"),
            ("{", "expected a cluster and a task"),
            ("[]", "expected a cluster and a task"),
            (config(JOBS, "worker", 1), "the task is worker 1"),
            (config({"worker": ["b:1"], "ps": ["c:1"]}, "worker", 0), "no chief"),
            (config({"chief": ["b:1"], "ps": ["c:1"]}, "chief", 0), "no worker"),
        ],
    )
    def test_what_is_wrong_is_said(self, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TF_CONFIG", text)
        with pytest.raises(InputError, match=message):
            Cluster.of_environment()

    def test_who_does_not_answer_is_named(self) -> None:
        ((free,),) = addresses({"chief": 1}).values()
        with pytest.raises(ClusterError, match=f"the chief at {free} did not answer for 0 seconds"):
            wait_for(free, "the chief", 0)

    def test_a_step_that_cannot_be_shared_out_is_refused(self) -> None:
        with pytest.raises(InputError, match="16 queries a step, expected a multiple of the cluster's 3 replicas"):
            check_shares(TwoTower.model_validate(SETTINGS), 3)
        with pytest.raises(InputError, match="uniform_negatives: found 3, expected a multiple"):
            check_shares(TwoTower.model_validate({**SETTINGS, "uniform_negatives": 3}), 2)
