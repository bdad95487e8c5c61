"""Asynchronous training: the chief draws the batches, workers compute gradients, parameter servers hold the variables.

A step is one worker's: its negatives are those of its own batch and its own uniform ones, and its gradients may be
those of weights that other workers have moved meanwhile. There are no negatives across the workers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import tensorflow as tf

# Steps that each worker has waiting: so that none is idle, and no more batches than these are in memory.
AHEAD = 2


def partitioner(shard_mb: float, servers: int) -> tf.distribute.experimental.partitioners.Partitioner:
    """Splits tables of vectors into shards of at least so many MB, and at most one for each server."""
    by_size = tf.distribute.experimental.partitioners.MinSizePartitioner(round(shard_mb * 2**20), servers)

    def shards(shape: tf.TensorShape, dtype: tf.DType, axis: int = 0) -> list[int]:
        # Vectors alone are looked up as TensorFlow can look shards up; lists of numbers are small.
        return by_size(shape, dtype, axis) if shape.rank == 2 else [1] * shape.rank

    return shards


def train(
    model: tf.keras.Model,
    batches: tf.data.Dataset,
    *,
    epochs: int,
    steps: int,
    workers: int,
    callbacks: Sequence[tf.keras.callbacks.Callback],
) -> None:
    """Keras's ``fit`` for a compiled model whose variables exist, on endless ``batches``, under the ambient strategy.

    A worker that is lost is done without, and its steps are done by others; a lost parameter server ends training.

    Raises:
        tf.errors.OpError: a step failed, or a parameter server was lost.
    """
    strategy = tf.distribute.get_strategy()
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    # The optimizer's slots, each beside its variable.
    model.optimizer.build(model.trainable_variables)

    @tf.function(input_signature=[batches.element_spec], autograph=False)
    def step(batch: dict[str, tf.Tensor]) -> tf.Tensor:
        return strategy.run(model.train_step, args=(batch,))["loss"]

    for callback in callbacks:
        callback.set_model(model)
    drawn = iter(batches)
    model.stop_training = False
    for epoch in range(epochs):
        for callback in callbacks:
            callback.on_epoch_begin(epoch)
        waiting = deque(coordinator.schedule(step, (next(drawn),)) for _ in range(min(steps, AHEAD * workers)))
        for number in range(steps):
            for callback in callbacks:
                callback.on_train_batch_begin(number)
            loss = float(waiting.popleft().fetch())
            if number + AHEAD * workers < steps:
                waiting.append(coordinator.schedule(step, (next(drawn),)))
            for callback in callbacks:
                callback.on_train_batch_end(number, {"loss": loss})
        coordinator.join()
        logs: dict[str, float] = {}
        for callback in callbacks:
            callback.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    for callback in callbacks:
        callback.on_train_end()
