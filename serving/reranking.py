"""Rules over the ranked candidates: boosts, caps and diversity."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from twotower.serving.attributes import LabelAttribute

Tensors = Mapping[str, tf.Tensor]
DIVERSITY = "diversity"


class Reranking(tf.Module):
    """Orders candidates by their scores and the request's rules.

    A boost multiplies the scores of the items with a label. Caps and diversity choose one item after the other, the
    best of those that remain: a cap takes no more of a label than it says; diversity s is maximal marginal relevance
    (Carbonell and Goldstein 1998), which values an item by (1 - s) * relevance - s * similarity. Its relevance is its
    score, scaled to 0 to 1 over the row's candidates; its similarity the highest cosine with an item chosen before, at
    least 0. So what is chosen later is never valued more.

    Args:
        caps, boosts: the attributes that can be capped and boosted, by feature.
        directions: rows [b, n] to unit vectors [b, n, dim], where diversity is offered.
    """

    def __init__(
        self,
        caps: Mapping[str, LabelAttribute],
        boosts: Mapping[str, LabelAttribute],
        directions: Callable[[tf.Tensor], tf.Tensor] | None,
    ) -> None:
        super().__init__()
        self._caps, self._boosts, self._directions = dict(caps), dict(boosts), directions

    def specs(self) -> dict[str, tf.TensorSpec]:
        """The rules' inputs; what is empty, NaN or 0 in them is no rule."""
        found = {f"cap_{name}": tf.TensorSpec([None], tf.int32, f"cap_{name}") for name in self._caps}
        for name in self._boosts:
            found[f"boost_{name}"] = tf.TensorSpec([None, None], tf.string, f"boost_{name}")
            found[f"boost_{name}_factors"] = tf.TensorSpec([None, None], tf.float32, f"boost_{name}_factors")
        if self._directions is not None:
            found[DIVERSITY] = tf.TensorSpec([None], tf.float32, DIVERSITY)
        return found

    def boosted(self, scores: tf.Tensor, rows: tf.Tensor, inputs: Tensors) -> tf.Tensor:
        """Scores [b, n] of rows [b, n], multiplied.

        Raises:
            tf.errors.InvalidArgumentError: when run, for a factor that is negative or infinite.
        """
        for name, attribute in self._boosts.items():
            factors = inputs[f"boost_{name}_factors"]
            valid = tf.math.is_nan(factors) | ((factors >= 0) & tf.math.is_finite(factors))
            scores = _where_valid(scores, valid, f"boost_{name}_factors: expected finite numbers of at least 0")
            wanted = tf.where(tf.math.is_nan(factors), -1, attribute.numbers(inputs[f"boost_{name}"]))
            matches = attribute.of(rows)[:, :, tf.newaxis] == wanted[:, tf.newaxis, :]
            scores *= tf.reduce_prod(tf.where(matches, factors[:, tf.newaxis, :], 1.0), axis=2)
        return scores

    def best(self, scores: tf.Tensor, rows: tf.Tensor, k: tf.Tensor, inputs: Tensors) -> tuple[tf.Tensor, tf.Tensor]:
        """The best of candidates with scores [b, n], -inf = none, as values and places [b, at most k].

        The values order the list: the scores, or with diversity what the items were valued when they were chosen.

        Raises:
            tf.errors.InvalidArgumentError: when run, for a diversity outside 0 to 1.
        """
        k = tf.minimum(k, tf.shape(scores)[1])
        if not self._caps and self._directions is None:
            values, places = tf.math.top_k(scores, k)
            return values, places
        caps = {name: inputs[f"cap_{name}"] for name in self._caps}
        strength = tf.zeros_like(scores[:, 0:1])
        if self._directions is not None:
            given = inputs[DIVERSITY]
            valid = tf.math.is_nan(given) | ((given >= 0) & (given <= 1))
            given = _where_valid(given, valid, "diversity: expected numbers from 0 to 1")
            strength = tf.where(tf.math.is_nan(given), 0.0, given)[:, tf.newaxis]
        needed = tf.reduce_any(strength > 0)
        for cap in caps.values():
            needed |= tf.reduce_any(cap > 0)
        best: tuple[tf.Tensor, tf.Tensor] = tf.cond(
            needed,
            lambda: self._one_after_the_other(scores, rows, k, caps, strength),
            lambda: tuple(tf.math.top_k(scores, k)),
        )
        return best

    def _one_after_the_other(
        self, scores: tf.Tensor, rows: tf.Tensor, k: tf.Tensor, caps: Tensors, strength: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        real = scores > -np.inf
        lowest = tf.reduce_min(tf.where(real, scores, np.inf), axis=1, keepdims=True)
        highest = tf.reduce_max(scores, axis=1, keepdims=True)
        relevance = tf.where(real, tf.math.divide_no_nan(scores - lowest, highest - lowest), 0.0)
        start = tf.where(strength > 0, (1 - strength) * relevance, scores)
        vectors = None if self._directions is None else self._directions(rows)
        labels = [self._caps[name].of(rows) for name in caps]
        # Missing labels are no label to share.
        limits = [
            tf.where(
                (caps[name][:, tf.newaxis] > 0) & (label < self._caps[name].n_labels), caps[name][:, tf.newaxis], k
            )
            for name, label in zip(caps, labels, strict=True)
        ]

        def choose(
            step: tf.Tensor, free: tf.Tensor, nearest: tf.Tensor, taken: list[tf.Tensor],
            values: tf.TensorArray, places: tf.TensorArray,
        ) -> tuple[object, ...]:  # fmt: skip
            open_ = free
            for count, limit in zip(taken, limits, strict=True):
                open_ &= count < limit
            value = tf.where(open_, tf.where(strength > 0, start - strength * nearest, start), -np.inf)
            place = tf.argmax(value, axis=1, output_type=tf.int32)
            best = tf.gather(value, place, batch_dims=1)
            chosen = best > -np.inf
            free &= ~(tf.one_hot(place, tf.shape(scores)[1], True, False, dtype=tf.bool) & chosen[:, tf.newaxis])
            if vectors is not None:
                near = tf.linalg.matvec(vectors, tf.gather(vectors, place, batch_dims=1))
                nearest = tf.where(chosen[:, tf.newaxis], tf.maximum(nearest, near), nearest)
            taken = [
                count
                + tf.cast(
                    (label == tf.gather(label, place, batch_dims=1)[:, tf.newaxis]) & chosen[:, tf.newaxis], tf.int32
                )
                for count, label in zip(taken, labels, strict=True)
            ]
            return step + 1, free, nearest, taken, values.write(step, best), places.write(step, place)

        empty = [tf.TensorArray(kind, k, element_shape=[None]) for kind in (tf.float32, tf.int32)]
        nothing = [tf.zeros_like(rows) for _ in labels]
        _, _, _, _, values, places = tf.while_loop(
            lambda step, *_: step < k,
            choose,
            (0, real, tf.zeros_like(scores), nothing, *empty),
            parallel_iterations=1,
        )
        shape = tf.stack([k, tf.shape(scores)[0]])
        return tf.transpose(tf.reshape(values.stack(), shape)), tf.transpose(tf.reshape(places.stack(), shape))


def _where_valid(values: tf.Tensor, valid: tf.Tensor, message: str) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(valid), [message])]):
        return tf.identity(values)
