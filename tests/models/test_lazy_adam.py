"""LazyAdam: Adam where all rows are used, and stillness where none is."""

from typing import Any

import numpy as np
import tensorflow as tf

from twotower.models.lazy_adam import LazyAdam


def moved(optimizer: Any, rows: list[list[int]]) -> Any:
    """A table of ones [3, 2] after a step for each list of rows, whose gradients are their places."""
    table = tf.Variable(tf.ones([3, 2]))
    for step in rows:
        gradient = tf.IndexedSlices(tf.constant([[1.0 + place] * 2 for place in range(len(step))]), tf.constant(step))
        optimizer.apply_gradients([(gradient, table)])
    return table.numpy()


def test_rows_of_a_step_move_as_adam_moves_them() -> None:
    every = [[0, 1, 2], [2, 1, 0], [0, 2, 1]]
    lazy, adam = (moved(kind(0.1), every) for kind in (LazyAdam, tf.keras.optimizers.Adam))
    np.testing.assert_allclose(lazy, adam, rtol=1e-5)


def test_other_rows_stay() -> None:
    found = moved(LazyAdam(0.1), [[0], [1], [1]])
    once = moved(LazyAdam(0.1), [[0]])
    np.testing.assert_array_equal(found[0], once[0])
    assert (found[2] == 1).all()
    assert (moved(tf.keras.optimizers.Adam(0.1), [[0], [1], [1]])[0] != once[0]).all()


def test_repeated_rows_add_up() -> None:
    np.testing.assert_allclose(
        moved(LazyAdam(0.1), [[1, 1]]), moved(tf.keras.optimizers.Adam(0.1), [[1, 1]]), rtol=1e-5
    )
