"""The training loop of the models that learn from pairs of a user and an item: epochs of shuffled mini-batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.models.training import Progress

Int64 = npt.NDArray[np.int64]

# Users [b] and items [b] to the batch's mean loss; takes one optimisation step.
Step = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_ROWS = tf.TensorSpec([None], tf.int64)


def train_on_pairs(
    step: Step, users: Int64, items: Int64, *, batch_size: int, epochs: int, seed: int, folder: Path
) -> None:
    """Run ``step`` over every pair ``epochs`` times, shuffled anew, and leave the curve in ``folder``."""
    random = np.random.default_rng(seed)
    steps = n_steps(len(users), batch_size)
    progress = Progress(epochs, steps, batch_size, folder)
    compiled = tf.function(step, input_signature=[_ROWS, _ROWS])
    for epoch in range(epochs):
        progress.on_epoch_begin(epoch)
        for number, batch in enumerate(np.array_split(random.permutation(len(users)), steps)):
            loss = compiled(tf.constant(users[batch]), tf.constant(items[batch]))
            progress.on_train_batch_end(number, {"loss": float(loss)})
        progress.on_epoch_end(epoch)
    progress.on_train_end()


def n_steps(pairs: int, batch_size: int) -> int:
    """Batches an epoch: all of about ``batch_size`` pairs, with none left over."""
    return max(1, round(pairs / batch_size))


def adam(learning_rate: float, steps: int) -> tf.keras.optimizers.Optimizer:
    """Adam whose rate falls to nothing along a cosine over ``steps`` (Loshchilov and Hutter 2017)."""
    return tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(learning_rate, steps))
