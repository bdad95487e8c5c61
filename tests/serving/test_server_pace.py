"""Which signatures are answered where their request was read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from server_harness import save_toy

from twotower.serving.server.pace import PROBES, QUICK_SECONDS, TOO_SLOW_SECONDS, Pace
from twotower.serving.server.servable import Servable


@pytest.fixture(scope="module")
def servable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servable]:
    servable = Servable("toy", 1, str(save_toy(tmp_path_factory.mktemp("toy"), 1)))
    yield servable
    servable.close()


def probed(pace: Pace, *seconds: float) -> list[bool]:
    """Whether it is quick after each of the measured runs."""
    found = []
    for taken in seconds:
        assert pace.begin_probe()
        pace.end_probe(taken)
        found.append(pace.quick)
    return found


def test_it_takes_several_runs_of_which_the_first_does_not_count() -> None:
    pace = Pace(bounded=True)
    assert probed(pace, 1.0, *[QUICK_SECONDS / 2] * (PROBES - 1)) == [False] * (PROBES - 1) + [True]
    assert not pace.begin_probe()
    pace.took(TOO_SLOW_SECONDS / 2)
    assert pace.quick
    pace.took(TOO_SLOW_SECONDS * 2)
    assert not pace.quick
    assert not pace.begin_probe()


def test_a_slow_signature_is_given_up_after_two_runs() -> None:
    pace = Pace(bounded=True)
    assert probed(pace, 1.0, TOO_SLOW_SECONDS * 2) == [False, False]
    assert not pace.begin_probe()


def test_one_run_is_measured_at_a_time() -> None:
    pace = Pace(bounded=True)
    assert pace.begin_probe()
    assert not pace.begin_probe()


def test_what_may_take_any_time_is_never_quick(servable: Servable) -> None:
    signatures = servable.signatures
    for _ in range(2 * PROBES):
        servable.run(signatures["serving_default"], {"x": np.zeros(1, np.float32)}, ["y"], None)
        servable.run(signatures["count"], {"steps": np.array(1, np.int32)}, ["steps"], None)
    assert signatures["serving_default"].pace.quick
    assert not signatures["count"].pace.quick  # a loop
    assert not signatures["wait"].pace.begin_probe()  # a queue


def test_a_loop_inside_a_function_inside_a_function_is_seen(tmp_path: Path) -> None:
    @tf.function
    def inner(x: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(lambda i: i < x, lambda i: (i + 1,), [tf.constant(0)])[0]

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, name="x")])
    def outer(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": tf.cond(x > 0, lambda: inner(x), lambda: x)}

    module = tf.Module()
    module.outer = outer
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=outer)
    servable = Servable("nested", 1, str(tmp_path / "1"))
    assert not servable.signatures["serving_default"].pace.begin_probe()
    servable.close()
