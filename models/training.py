"""What both trainers share: the run's seed, progress lines, the training curve, and saving."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import tensorflow as tf

progress = logging.getLogger("twotower.progress")

CURVE_FILE = "curve.json"


class Progress(tf.keras.callbacks.Callback):
    """Says how far training is, at most every few seconds, and keeps the epochs' losses for the report."""

    def __init__(self, epochs: int, steps: int, examples_a_step: int, folder: str) -> None:
        super().__init__()
        self._epochs, self._steps, self._examples = epochs, steps, examples_a_step
        self._folder = Path(folder)
        self._curve: list[dict[str, float]] = []
        self._epoch = 0
        self._started = self._said = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Remember the epoch."""
        del logs
        self._epoch, self._started = epoch, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Say the step and the loss so far."""
        if time.monotonic() - self._said > 5:
            self._said = time.monotonic()
            loss = (logs or {}).get("loss", float("nan"))
            progress.info(
                "epoch %d/%d  step %d/%d  loss %.4f", self._epoch + 1, self._epochs, batch + 1, self._steps, loss
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Say the epoch's loss and speed."""
        seconds = time.monotonic() - self._started
        values = {name: float(value) for name, value in (logs or {}).items()}
        self._curve.append({"epoch": epoch + 1.0, **values})
        shown = "  ".join(f"{name} {values[name]:.4f}" for name in ("loss", "auc") if name in values)
        rate = self._steps * self._examples / seconds
        progress.info("epoch %d/%d  %s  %.0f s  %s examples/s", epoch + 1, self._epochs, shown, seconds, f"{rate:,.0f}")

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Write the curve."""
        del logs
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / CURVE_FILE).write_text(json.dumps(self._curve), encoding="utf-8")
