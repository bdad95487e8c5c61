"""The training loop of the models that learn from pairs of a user and an item, or from users: shuffled mini-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    train_on_batches(step, [users, items], batch_size=batch_size, epochs=epochs, seed=seed, folder=folder)


def train_on_batches(
    step: Callable[..., tf.Tensor], columns: Sequence[Int64], *, batch_size: int, epochs: int, seed: int, folder: Path
) -> None:
    """The same for examples of any ``columns`` [n], each an argument of ``step``."""
    random = np.random.default_rng(seed)
    steps = n_steps(len(columns[0]), batch_size)
    progress = Progress(epochs, steps, batch_size, folder)
    compiled = tf.function(step, input_signature=[_ROWS] * len(columns), autograph=False)
    for epoch in range(epochs):
        progress.on_epoch_begin(epoch)
        for number, batch in enumerate(np.array_split(random.permutation(len(columns[0])), steps)):
            loss = compiled(*(tf.constant(column[batch]) for column in columns))
            progress.on_train_batch_end(number, {"loss": float(loss)})
        progress.on_epoch_end(epoch)
    progress.on_train_end()


def n_steps(examples: int, batch_size: int) -> int:
    """Batches an epoch: all of about ``batch_size`` examples, with none left over."""
    return max(1, round(examples / batch_size))


def adam(learning_rate: float, steps: int) -> tf.keras.optimizers.Optimizer:
    """Adam whose rate falls to nothing along a cosine over ``steps`` (Loshchilov and Hutter 2017)."""
    return tf.keras.optimizers.Adam(tf.keras.optimizers.schedules.CosineDecay(learning_rate, steps))
