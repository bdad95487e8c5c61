"""Training the retrieval model as the chief of a cluster, or as one of its multi-worker replicas."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import tensorflow as tf

from twotower.models.cluster import PARAMETER_SERVER, Cluster, wait_for
from twotower.models.parameter_servers import partitioner
from twotower.models.replicas import check_shares
from twotower.models.retrieval import fit, local_copy
from twotower.models.retrieval_task import RetrievalTask
from twotower.models.time_limit import at_most
from twotower.models.training_events import two_tower

progress = logging.getLogger("twotower.progress")


def train(file: Path, cluster: Cluster, wait: float) -> None:
    """Train with the cluster's other processes, which have ``wait`` seconds to appear; the chief saves.

    Raises:
        InputError: the spec asks for another strategy, or its batches cannot be shared out.
        ClusterError: a worker or a parameter server did not appear.
    """
    task = RetrievalTask.read(file)
    choice = two_tower(task.parsed())
    assert choice.distribution is not None
    cluster.check_strategy(choice.distribution.strategy)
    progress.info(f"{cluster.name} joins {', '.join(f'{len(found)} {job}' for job, found in cluster.jobs.items())}")
    with at_most(wait):
        if cluster.strategy == "multi_worker":
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        else:
            strategy = _parameter_servers(cluster, choice.distribution.shard_mb, wait)
    check_shares(choice, strategy.num_replicas_in_sync)
    with tempfile.TemporaryDirectory() as scratch:
        data = task.data(task.run if cluster.is_chief else scratch)
        with strategy.scope():
            towers = fit(data)
        if cluster.is_chief:
            task.save(local_copy(data, towers))


def _parameter_servers(cluster: Cluster, shard_mb: float, wait: float) -> tf.distribute.Strategy:
    for job in ("worker", PARAMETER_SERVER):
        for index, address in enumerate(cluster.jobs[job]):
            wait_for(address, f"{job} {index}", wait)
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    return tf.distribute.ParameterServerStrategy(resolver, partitioner(shard_mb, len(cluster.jobs[PARAMETER_SERVER])))
