"""How long each stage of a request takes, measured in the graph, so that any server that runs it can say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import tensorflow as tf

T = TypeVar("T")
PREFIX = "ms_"


class StageClock:
    """Runs stages one after the other and takes the time between them."""

    def __init__(self) -> None:
        self._last = self._start = tf.timestamp()
        self._stages: dict[str, tf.Tensor] = {}

    def stage(self, name: str, run: Callable[[], T]) -> T:
        """What ``run`` returns, a structure of tensors; it begins when the stage before has ended."""
        with tf.control_dependencies([self._last]):
            found: T = tf.nest.map_structure(tf.identity, run())
        with tf.control_dependencies(tf.nest.flatten(found)):
            now = tf.timestamp()
        self._stages[name] = now - self._last
        self._last = now
        return found

    def outputs(self, batch: tf.Tensor) -> dict[str, tf.Tensor]:
        """``ms_<stage>`` and ``ms_all`` [batch] float32, milliseconds of the whole request, alike for all its rows."""
        spans = {**self._stages, "all": self._last - self._start}
        return {f"{PREFIX}{name}": tf.fill([batch], tf.cast(1e3 * span, tf.float32)) for name, span in spans.items()}


def untimed(name: str, run: Callable[[], T]) -> T:
    """What ``run`` returns: ``StageClock.stage`` where nobody asks for the time."""
    return run()
