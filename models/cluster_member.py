"""One process of a cluster that trains the retrieval model; ``cluster_process`` starts it.

Its standard output has a line for each step of progress, and why it failed as the last one. Exit status: 0 done, 2 bad
input, 1 anything else.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

from twotower.features.errors import InputError
from twotower.models.cluster import Cluster, ClusterError, answers, wait_for
from twotower.models.cluster_process import BAD_INPUT

progress = logging.getLogger("twotower.progress")

# Failed connections in a row after which the chief counts as gone.
TRIES = 3
# TensorFlow's errors where a process does not answer.
LOST = ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError")


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
    except Exception as error:
        logging.exception("training failed")
        lost = ", a process of the cluster was lost" if type(error).__name__ in LOST else ""
        _say(f"{type(error).__name__}{lost}: {(str(error).strip().splitlines() or ['no message'])[0]}")
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
    # Without it, a call to a parameter server or worker that is gone waits for its return.
    os.environ["GRPC_FAIL_FAST"] = "use_caller"
    serves = cluster.strategy == "parameter_server" and not cluster.is_chief
    if serves:
        _serve(cluster, wait)
        return
    # A server needs none of this, and its memory is for its shards.
    from twotower.models.cluster_training import train

    if not cluster.is_chief:
        wait_for(cluster.chief, "the chief", wait)
    train(task, cluster, wait)
    if not cluster.is_chief:
        # Who left now would look lost to the chief, which still writes.
        _until_gone(cluster.chief)


def _serve(cluster: Cluster, wait: float) -> None:
    import tensorflow as tf

    server = tf.distribute.Server(dict(cluster.jobs), job_name=cluster.job, task_index=cluster.index)
    wait_for(cluster.chief, "the chief", wait)
    progress.info(f"{cluster.name} serves at {server.target}")
    _until_gone(cluster.chief)
    progress.info("the chief has left; its own lines say how training went")


def _until_gone(address: str) -> None:
    failed = 0
    while failed < TRIES:
        time.sleep(0.5)
        failed = 0 if answers(address) else failed + 1


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
