"""One process of a cluster that trains the retrieval model; ``cluster_process`` starts it.

Its standard output has a line for each step of progress, and why it failed as the last one. Exit status: 0 done, 2 bad
input, 1 anything else.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import tensorflow as tf

from twotower.features.errors import InputError
from twotower.features.spec import Spec
from twotower.models.cluster import PARAMETER_SERVER, Cluster, ClusterError, answers, wait_for
from twotower.models.cluster_process import BAD_INPUT
from twotower.models.contract import Towers, TrainingData
from twotower.models.parameter_servers import partitioner
from twotower.models.replicas import check_shares
from twotower.models.retrieval import fit, local_copy
from twotower.models.retrieval_task import RetrievalTask
from twotower.models.time_limit import at_most
from twotower.models.training_events import two_tower

progress = logging.getLogger("twotower.progress")

# Failed connections in a row after which the chief counts as gone.
TRIES = 3


def main() -> None:
    """Take part, and end at once: TensorFlow's own end would wait for processes that may be lost."""
    logging.basicConfig(stream=sys.stderr)
    handler = logging.StreamHandler(sys.stdout)
    progress.addHandler(handler)
    progress.setLevel(logging.INFO)
    progress.propagate = False
    threading.Thread(target=_end_with_parent, daemon=True).start()
    status = 1
    try:
        take_part(Path(sys.argv[1]), float(sys.argv[2]))
        status = 0
    except InputError as error:
        status = BAD_INPUT
        _say(str(error))
    except ClusterError as error:
        _say(str(error))
    except tf.errors.OpError as error:
        logging.exception("a step failed")
        _say(f"{type(error).__name__}, a process of the cluster may be lost: {_first_line(error.message)}")
    except Exception as error:
        logging.exception("training failed")
        _say(f"{type(error).__name__}: {_first_line(str(error))}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def take_part(task: Path, wait: float) -> None:
    """Serve, work or lead, as ``TF_CONFIG`` says; only the chief writes.

    Raises:
        InputError: ``TF_CONFIG`` or the spec is bad.
        ClusterError: a process of the cluster did not appear.
    """
    cluster = Cluster.of_environment()
    if cluster.strategy == "parameter_server":
        _parameter_server(cluster, task, wait)
    else:
        _multi_worker(cluster, task, wait)


def _multi_worker(cluster: Cluster, file: Path, wait: float) -> None:
    if not cluster.is_chief:
        wait_for(cluster.chief, "the chief", wait)
    task = RetrievalTask.read(file)
    spec = _checked(task, cluster)
    with at_most(wait, f"the cluster's processes did not all join within {wait:.0f} seconds: {dict(cluster.jobs)}"):
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    check_shares(two_tower(spec), strategy.num_replicas_in_sync)
    progress.info(f"{cluster.name} of {strategy.num_replicas_in_sync} replicas")
    with tempfile.TemporaryDirectory() as scratch:
        data = task.data(task.run if cluster.is_chief else scratch)
        with strategy.scope():
            towers = fit(data)
        if cluster.is_chief:
            _save(task, data, towers)
        else:
            # Who left now would look lost to the chief, which still writes.
            _until_gone(cluster.chief)


def _parameter_server(cluster: Cluster, file: Path, wait: float) -> None:
    # Without it, a call to a process that is gone waits for its return.
    os.environ["GRPC_FAIL_FAST"] = "use_caller"
    if not cluster.is_chief:
        server = tf.distribute.Server(dict(cluster.jobs), job_name=cluster.job, task_index=cluster.index)
        wait_for(cluster.chief, "the chief", wait)
        progress.info(f"{cluster.name} serves at {server.target}")
        _until_gone(cluster.chief)
        progress.info("the chief has left; its own lines say how training went")
        return
    task = RetrievalTask.read(file)
    spec = _checked(task, cluster)
    for job in ("worker", PARAMETER_SERVER):
        for index, address in enumerate(cluster.jobs[job]):
            wait_for(address, f"{job} {index}", wait)
    choice = two_tower(spec)
    assert choice.distribution is not None
    with at_most(wait, f"the cluster's processes did not all join within {wait:.0f} seconds: {dict(cluster.jobs)}"):
        strategy = tf.distribute.ParameterServerStrategy(
            tf.distribute.cluster_resolver.TFConfigClusterResolver(),
            partitioner(choice.distribution.shard_mb, len(cluster.jobs[PARAMETER_SERVER])),
        )
    progress.info(f"chief of {len(cluster.jobs['worker'])} workers, {len(cluster.jobs[PARAMETER_SERVER])} servers")
    data = task.data(task.run)
    with strategy.scope():
        towers = fit(data)
    _save(task, data, towers)


def _checked(task: RetrievalTask, cluster: Cluster) -> Spec:
    spec = task.parsed()
    distribution = two_tower(spec).distribution
    assert distribution is not None
    cluster.check_strategy(distribution.strategy)
    return spec


def _save(task: RetrievalTask, data: TrainingData, towers: Towers) -> None:
    """Save the towers as one process would have trained them.

    They pass through a checkpoint, in which a table is whole, whatever its shards; the servers write it themselves, to
    a folder that all machines see.
    """
    with tempfile.TemporaryDirectory(dir=Path(task.run).parent) as folder:
        path = tf.train.Checkpoint(query=towers.query, candidate=towers.candidate).write(f"{folder}/towers")
        task.save(local_copy(data, path))


def _until_gone(address: str) -> None:
    failed = 0
    while failed < TRIES:
        time.sleep(0.5)
        failed = 0 if answers(address) else failed + 1


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[0]


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
