"""What the replicas of a training step tell each other; with one replica, nothing."""

from __future__ import annotations

import tensorflow as tf

from twotower.features.errors import InputError
from twotower.features.model_choices import TwoTower


def own_first(values: tf.Tensor) -> tf.Tensor:
    """Every replica's rows [c, ...] as [replicas * c, ...], this replica's before the others'.

    Gradients flow back: a replica's rows get the sum of what all replicas have to say of them.
    """
    context = tf.distribute.get_replica_context()
    gathered = context.all_gather(values, axis=0)
    # Gathering forgets the static shape, which the loss asks for.
    gathered.set_shape([context.num_replicas_in_sync * values.shape[0], *values.shape[1:]])
    return tf.roll(gathered, -context.replica_id_in_sync_group * values.shape[0], axis=0)


def check_shares(choice: TwoTower, replicas: int) -> None:
    """Raise InputError where a step cannot be shared out evenly, or training would stop early."""
    if choice.validation_days:
        raise InputError(
            f"retrieval.validation_days: found {choice.validation_days}, expected 0 with a retrieval.distribution: "
            "early stopping does not work in a cluster yet"
        )
    queries = choice.batch_size // choice.events_per_user
    if queries % replicas:
        raise InputError(
            f"retrieval.batch_size: found {choice.batch_size} with {choice.events_per_user} events_per_user, which is "
            f"{queries} queries a step, expected a multiple of the cluster's {replicas} replicas"
        )
    if choice.uniform_negatives % replicas:
        raise InputError(
            f"retrieval.uniform_negatives: found {choice.uniform_negatives}, expected a multiple of the cluster's "
            f"{replicas} replicas"
        )
