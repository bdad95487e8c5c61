"""That a stage's time is its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from twotower.serving.server.servable import Servable
from twotower.serving.stage_clock import StageClock

SIZE = 300


class Stages(tf.Module):
    """Two stages: one is a function with a loop that takes long, and one takes no time."""

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def slow(self, values: tf.Tensor) -> dict[str, tf.Tensor]:
        """A function of two results, of which one is there at once."""
        _, product = tf.while_loop(
            lambda step, _: step < 50, lambda step, product: (step + 1, product @ values), (0, values)
        )
        return {"early": tf.reduce_sum(values), "late": tf.reduce_sum(product)}

    @tf.function(input_signature=[tf.TensorSpec([None, None], name="values")])
    def timed(self, values: tf.Tensor) -> dict[str, tf.Tensor]:
        """The signature."""
        clock = StageClock()
        found = clock.stage("slow", lambda: self.slow(values))
        more = clock.stage("quick", lambda: found["late"] + 1.0)
        return {"more": more, **clock.outputs(tf.constant(1))}


def test_a_stage_ends_when_all_its_results_are_there(tmp_path: Path) -> None:
    # Grappler inlines the function, and a control edge from its call then waits for nothing.
    stages = Stages()
    tf.saved_model.save(stages, str(tmp_path), {"timed": stages.timed})
    values = np.full([SIZE, SIZE], 1 / SIZE, np.float32)
    eager = {name: value.numpy() for name, value in stages.timed(values).items()}
    served = Servable("stages", 1, str(tmp_path))
    signature = served.signatures["timed"]
    found = served.run(signature, {"values": values}, signature.aliases, None)
    served.close()
    for times in (eager, dict(zip(signature.aliases, found, strict=True))):
        assert times["ms_slow"][0] > 0.9 * times["ms_all"][0] > 0.0
        assert times["ms_quick"][0] < 0.1 * times["ms_all"][0]
