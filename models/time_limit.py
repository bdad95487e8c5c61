"""Ends a process that waits in vain: TensorFlow's collectives have no time limit of their own."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

# Seconds that a step may take, the first one's compilation included.
STEP = 300.0


@contextmanager
def at_most(seconds: float, message: str) -> Iterator[None]:
    """End this process, with ``message`` as its last line, where the block takes longer.

    A thread that waits inside TensorFlow cannot be interrupted in another way.
    """
    timer = _started(seconds, message)
    try:
        yield
    finally:
        timer.cancel()


class StepLimit(tf.keras.callbacks.Callback):
    """Ends this process where a step takes longer than ``STEP``: another process was lost without a word."""

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        """Start the clock."""
        del logs
        self._timer = _started(STEP, f"step {batch + 1} took more than {STEP:.0f} seconds: a process was lost")

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Stop it."""
        del batch, logs
        self._timer.cancel()


def _started(seconds: float, message: str) -> threading.Timer:
    def end() -> None:
        print(message, flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    return timer
