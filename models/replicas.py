"""What the replicas of a training step tell each other; with one replica, nothing."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from twotower.features.errors import InputError
from twotower.features.model_choices import TwoTower
from twotower.models.time_limit import STEP, at_most


def own_first(values: tf.Tensor) -> tf.Tensor:
    """Every replica's rows [c, ...] as [replicas * c, ...], this replica's before the others'.

    Gradients flow back: a replica's rows get the sum of what all replicas have to say of them.
    """
    context = tf.distribute.get_replica_context()
    gathered = context.all_gather(values, axis=0)
    # Gathering forgets the static shape, which the loss asks for.
    gathered.set_shape([context.num_replicas_in_sync * values.shape[0], *values.shape[1:]])
    return tf.roll(gathered, -context.replica_id_in_sync_group * values.shape[0], axis=0)


def mean_of_replicas() -> Callable[[float], float]:
    """A function that gives every replica the mean of what each has found: replicas that differ would wait in vain.

    One for all its calls, in the ambient strategy: a graph of its own for each call might go while others still run it.
    """
    strategy = tf.distribute.get_strategy()
    if strategy.num_replicas_in_sync == 1:
        return float

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32)], autograph=False)
    def mean(value: tf.Tensor) -> tf.Tensor:
        return strategy.reduce(tf.distribute.ReduceOp.MEAN, strategy.run(tf.identity, (value,)), axis=None)

    def of_all(value: float) -> float:
        with at_most(STEP):
            return float(mean(tf.constant(value, tf.float32)))

    return of_all


def check_shares(choice: TwoTower, replicas: int) -> None:
    """Raise InputError where a step cannot be shared out evenly."""
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
