"""Ends a process that waits in vain: TensorFlow's collectives have no time limit of their own.

By the kernel's alarm, because a thread that waits in TensorFlow may hold the interpreter's lock; ``cluster_process``
knows what it means.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

# Seconds that a step may take, the first one's compilation included.
STEP = 300


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End this process by SIGALRM where the block takes longer."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class StepLimit(tf.keras.callbacks.Callback):
    """Ends this process by SIGALRM where a step takes longer than ``STEP``: another process was lost without a word."""

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        """Start the clock."""
        del batch, logs
        signal.setitimer(signal.ITIMER_REAL, STEP)

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Stop it."""
        del batch, logs
        signal.setitimer(signal.ITIMER_REAL, 0)
