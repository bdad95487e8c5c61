"""What the trainers share: the learning rate's schedule, progress lines, the training curve, and saving."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

progress = logging.getLogger("twotower.progress")

CURVE_FILE = "curve.json"


# Share of the steps over which a warmed-up learning rate rises.
WARMUP = 0.1


def schedule(
    rate: float, kind: Literal["constant", "warmup_cosine"], steps: int
) -> float | tf.keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate over ``steps``: as it is, or rising to ``rate`` and then falling to 0 along a cosine."""
    if kind == "constant":
        return rate
    warmup = max(1, round(WARMUP * steps))
    return tf.keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), warmup_target=rate, warmup_steps=warmup
    )


class Progress(tf.keras.callbacks.Callback):
    """Says how far training is, at most every few seconds, and keeps the epochs' losses for the report."""

    def __init__(self, epochs: int, steps: int, examples_a_step: int, folder: str | Path) -> None:
        super().__init__()
        self._epochs, self._steps, self._examples = epochs, steps, examples_a_step
        self._folder = Path(folder)
        self._curve: list[dict[str, float]] = []
        self._epoch = 0
        self._losses: list[float] = []
        self._started = self._said = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Remember the epoch."""
        del logs
        self._epoch, self._started, self._losses = epoch, time.monotonic(), []

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Say the step and the epoch's mean loss so far."""
        self._losses.append((logs or {})["loss"])
        if time.monotonic() - self._said > 5:
            self._said = time.monotonic()
            mean = np.mean(self._losses)
            progress.info(f"epoch {self._epoch + 1}/{self._epochs}  step {batch + 1}/{self._steps}  loss {mean:.4f}")

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Say the epoch's loss and speed."""
        seconds = time.monotonic() - self._started
        # TFRS logs the last batch's loss; the mean says how the epoch went.
        values = {name: float(value) for name, value in (logs or {}).items()} | {"loss": float(np.mean(self._losses))}
        shown = "  ".join(f"{name} {values[name]:.4f}" for name in ("loss", "auc", "ndcg") if name in values)
        rate = self._steps * self._examples / seconds
        self._curve.append({"epoch": epoch + 1.0, **values, "examples_per_second": rate})
        progress.info("epoch %d/%d  %s  %.0f s  %s examples/s", epoch + 1, self._epochs, shown, seconds, f"{rate:,.0f}")

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Write the curve."""
        del logs
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / CURVE_FILE).write_text(json.dumps(self._curve), encoding="utf-8")
