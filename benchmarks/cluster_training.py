"""Memory of each process against the number of shards, and examples a second against the number of workers.

python benchmarks/cluster_training.py memory [--rows 1000000] [--dim 64] [--shards 1 2 4]
python benchmarks/cluster_training.py speed [--workers 2]

`memory` makes an embedding table and its optimizer's slots on so many parameter servers and takes steps of 4096 random
rows, which it measures too; the row `one process` has the same without servers. `speed` trains the two towers on
made-up purchases, alone, as multi_worker and on parameter servers. All processes are on this machine.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import os
import resource
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np

ROWS_A_STEP, STEPS = 4096, 20
USERS, ITEMS, EVENTS = 20_000, 20_000, 400_000
JOIN = 300


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


def peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(config: str, done: Any, answers: Queue[tuple[str, Any]]) -> None:
    """A worker or a parameter server, until ``done``; answers with its name and peak memory."""
    os.environ["TF_CONFIG"] = config
    os.environ["GRPC_FAIL_FAST"] = "use_caller"
    import tensorflow as tf

    from twotower.models.cluster import Cluster

    cluster = Cluster.of_environment()
    before = peak_mb()
    server = tf.distribute.Server(dict(cluster.jobs), job_name=cluster.job, task_index=cluster.index)
    done.wait()
    answers.put((cluster.job, peak_mb() - before))
    del server


def table(config: str, rows: int, dim: int, answers: Queue[tuple[str, Any]]) -> None:
    """Steps over one table, on the cluster's parameter servers if there is one; answers with bytes and speed."""
    os.environ["TF_CONFIG"] = config
    import tensorflow as tf

    from twotower.models.cluster import PARAMETER_SERVER, Cluster, wait_for
    from twotower.models.lazy_adam import LazyAdam
    from twotower.models.parameter_servers import partitioner

    strategy = tf.distribute.get_strategy()
    if config:
        cluster = Cluster.of_environment()
        for job in ("worker", PARAMETER_SERVER):
            for address in cluster.jobs[job]:
                wait_for(address, job, JOIN)
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        strategy = tf.distribute.ParameterServerStrategy(resolver, partitioner(1.0, len(cluster.jobs["ps"])))
    before = peak_mb()
    with strategy.scope():
        layer = tf.keras.layers.Embedding(rows, dim)
        layer.build([])
        optimizer = LazyAdam(0.01)
        optimizer.build(layer.trainable_variables)

    def replica_step(ids: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(layer(ids) - 1))
        gradients = tape.gradient(loss, layer.trainable_variables)
        optimizer.apply_gradients(zip(gradients, layer.trainable_variables, strict=True))
        return loss

    @tf.function
    def step(ids: tf.Tensor) -> tf.Tensor:
        return strategy.run(replica_step, (ids,))

    random = np.random.default_rng(1)
    batches = [tf.constant(random.integers(rows, size=ROWS_A_STEP)) for _ in range(STEPS + 1)]
    if config:
        coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        coordinator.schedule(step, (batches[0],)).fetch()
        started = time.monotonic()
        for ids in batches[1:]:
            coordinator.schedule(step, (ids,))
        coordinator.join()
    else:
        step(batches[0])
        started = time.monotonic()
        for ids in batches[1:]:
            step(ids)
    seconds = time.monotonic() - started
    sizes: dict[str, int] = {}
    # A sharded slot is one variable to the optimizer.
    slots = [part for slot in optimizer.variables for part in getattr(slot, "variables", [slot])]
    for variable in [*layer.trainable_variables, *slots]:
        place = tf.DeviceSpec.from_string(variable.device)
        name = f"{place.job} {place.task}"
        sizes[name] = sizes.get(name, 0) + int(np.prod(variable.shape)) * variable.dtype.size
    answers.put(("table", (sizes, peak_mb() - before, STEPS * ROWS_A_STEP / seconds)))


def memory(rows: int, dim: int, shards: Sequence[int]) -> None:
    context = multiprocessing.get_context("spawn")
    print(f"A table of {rows:,} x {dim} float32 with Adam's two slots, {rows * dim * 12 / 2**20:,.0f} MiB in all:\n")
    print("| shards | variables and slots of a server, MiB | memory that they grew by, MiB | chief | worker | rows/s |")
    print("|---|---|---|---|---|---|", flush=True)
    for count in (0, *shards):
        jobs = addresses({"chief": 1, "worker": 1, "ps": count}) if count else {}
        answers: Queue[tuple[str, Any]] = context.Queue()
        done = context.Event()
        others = [
            context.Process(target=serve, args=(task(jobs, job, index), done, answers), daemon=True)
            for job in jobs
            if job != "chief"
            for index in range(len(jobs[job]))
        ]
        config = task(jobs, "chief", 0) if count else ""
        chief = context.Process(target=table, args=(config, rows, dim, answers), daemon=True)
        try:
            for process in (*others, chief):
                process.start()
            _, (sizes, own, rate) = answers.get(timeout=JOIN)
            done.set()
            grown = [answers.get(timeout=60) for _ in others]
        finally:
            for process in (*others, chief):
                process.kill()
                process.join()
        held = " ".join(f"{size / 2**20:,.0f}" for size in sizes.values() if size > 2**20)
        servers = " ".join(f"{mb:,.0f}" for job, mb in grown if job == "ps")
        (worker,) = [f"{mb:,.0f}" for job, mb in grown if job == "worker"] or ["-"]
        print(
            f"| {count or 'one process'} | {held} | {servers or '-'} | {own:,.0f} | {worker} | {rate:,.0f} |",
            flush=True,
        )


def task(jobs: Mapping[str, list[str]], job: str, index: int) -> str:
    return json.dumps({"cluster": jobs, "task": {"type": job, "index": index}})


def train(config: str, strategy_name: str, scratch: str, answers: Queue[tuple[str, Any]]) -> None:
    """Fit the two towers as the strategy says; the chief answers with the later epochs' examples a second."""
    os.environ["TF_CONFIG"] = config
    import tensorflow as tf

    from twotower.features.spec import Spec
    from twotower.features.timelines import Timelines
    from twotower.models.cluster import Cluster, wait_for
    from twotower.models.contract import TrainingData
    from twotower.models.parameter_servers import partitioner
    from twotower.models.retrieval import fit
    from twotower.models.tables import Catalogue, Users
    from twotower.models.training import CURVE_FILE

    split = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    spec = Spec.model_validate(
        {
            "name": "made_up",
            "interactions": {"path": "none.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": split},
            "retrieval": {"epochs": 4, "events_per_epoch": 40_960, "graph_factors": 0},
        }
    )
    random = np.random.default_rng(1)
    history = Timelines.from_events(
        random.integers(USERS, size=EVENTS),
        (random.zipf(1.3, EVENTS) % ITEMS).astype(np.int32),
        int(split.timestamp()) - random.integers(1, 100 * 86_400, EVENTS),
        np.ones(EVENTS, np.float32),
        USERS,
    )
    rows = np.arange(USERS)
    users = Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0))
    catalogue = Catalogue(np.array([b"%d" % row for row in range(ITEMS)], dtype=object), {}, [])
    strategy = tf.distribute.get_strategy()
    if strategy_name == "multi_worker":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif strategy_name == "parameter_server":
        cluster = Cluster.of_environment()
        for job in ("worker", "ps"):
            for address in cluster.jobs[job]:
                wait_for(address, job, JOIN)
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        strategy = tf.distribute.ParameterServerStrategy(resolver, partitioner(1.0, len(cluster.jobs["ps"])))
    data = TrainingData(spec, catalogue, users, USERS, Path(scratch))
    if strategy_name == "alone":
        fit(data)
    else:
        with strategy.scope():
            fit(data)
    curve = json.loads(Path(scratch, CURVE_FILE).read_text(encoding="utf-8"))
    answers.put(("rate", float(np.mean([entry["examples_per_second"] for entry in curve[1:]]))))


def speed(workers: int) -> None:
    context = multiprocessing.get_context("spawn")
    print("| training | workers | examples/s |\n|---|---|---|", flush=True)
    for name in ("alone", "multi_worker", "parameter_server"):
        jobs = {
            "alone": {},
            "multi_worker": {"worker": workers},
            "parameter_server": {"chief": 1, "worker": workers, "ps": 2},
        }[name]
        found = addresses(jobs)
        answers: Queue[tuple[str, Any]] = context.Queue()
        done = context.Event()
        started = []
        with tempfile.TemporaryDirectory() as scratch:
            for job, places in (found or {"chief": [""]}).items():
                for index in range(len(places)):
                    config = task(found, job, index) if found else ""
                    folder = Path(scratch, f"{job}{index}")
                    arguments: tuple[Any, ...] = (config, name, str(folder), answers)
                    serves = name == "parameter_server" and job != "chief"
                    target, arguments = (serve, (config, done, answers)) if serves else (train, arguments)
                    started.append(context.Process(target=target, args=arguments, daemon=True))
            try:
                for process in started:
                    process.start()
                _, rate = answers.get(timeout=JOIN)
            finally:
                for process in started:
                    process.kill()
                    process.join()
        print(f"| {name} | {max(1, jobs.get('worker', 0))} | {rate:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="what")
    table_options = commands.add_parser("memory")
    table_options.add_argument("--rows", type=int, default=1_000_000)
    table_options.add_argument("--dim", type=int, default=64)
    table_options.add_argument("--shards", type=int, nargs="+", default=[1, 2, 4])
    commands.add_parser("speed").add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.what == "memory":
        memory(options.rows, options.dim, options.shards)
    else:
        speed(options.workers)


if __name__ == "__main__":
    main()
