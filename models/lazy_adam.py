"""Adam that moves only the rows of an embedding that a step used."""

from __future__ import annotations

import tensorflow as tf


class LazyAdam(tf.keras.optimizers.Adam):
    """Adam (Kingma and Ba 2015, arXiv:1412.6980) whose sparse gradients touch their own rows alone.

    Keras's Adam decays the moments of every row and moves every row each step: as dear as the whole table, and ids
    that are not in a batch move too. Bias correction counts the steps of all rows.
    """

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Apply one variable's gradient; the rows of an ``IndexedSlices`` are distinct (Keras adds up repeats)."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        step = tf.cast(self.iterations + 1, variable.dtype)
        rate = tf.cast(self.learning_rate, variable.dtype)
        rate = rate * tf.sqrt(1 - tf.pow(self.beta_2, step)) / (1 - tf.pow(self.beta_1, step))
        place = self._index_dict[self._var_key(variable)]
        momentum, velocity = self._momentums[place], self._velocities[place]
        rows = gradient.indices
        m = self.beta_1 * tf.gather(momentum, rows) + (1 - self.beta_1) * gradient.values
        v = self.beta_2 * tf.gather(velocity, rows) + (1 - self.beta_2) * tf.square(gradient.values)
        momentum.scatter_update(tf.IndexedSlices(m, rows))
        velocity.scatter_update(tf.IndexedSlices(v, rows))
        variable.scatter_sub(tf.IndexedSlices(rate * m / (tf.sqrt(v) + self.epsilon), rows))
