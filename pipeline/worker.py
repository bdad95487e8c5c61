"""``twotower worker``: one machine's part in the training that another machine's ``twotower run`` leads."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from twotower.features.errors import InputError
from twotower.models.cluster import Cluster, ClusterError
from twotower.models.cluster_process import TASK_FILE, take_part
from twotower.pipeline.console import quiet


def cluster_folder(out: Path) -> Path:
    """Where the chief of a run into ``out`` leaves the cluster's task."""
    return out / "cluster"


def worker(out: Path, wait: float) -> int:
    """Join the training of the run into ``out``, a folder that all machines see; returns the exit status.

    Args:
        out: the run's folder, under the same path as on the chief.
        wait: seconds that the chief has to come to its Trainer step.

    Raises:
        InputError: ``TF_CONFIG`` is bad, or makes this process the chief.
    """
    cluster = Cluster.of_environment()
    if cluster.is_chief:
        raise InputError("TF_CONFIG: this is the chief, expected another task: the chief runs `twotower run`")
    name = f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}-{cluster.job}-{cluster.index}.log"
    with quiet(out / "logs" / name) as console:
        console.print(f"{cluster.name} waits for the chief at {cluster.chief}", highlight=False)
        try:
            take_part(cluster_folder(out) / TASK_FILE, wait)
        except ClusterError as error:
            console.print(f"[red]failed[/]: {error}", highlight=False)
            return 1
    return 0
