"""Transformed features to one dense vector: an embedding for each index, the numbers as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import tensorflow as tf

from twotower.features.encoding import PAD, Encoding


def embedding_width(size: int) -> int:
    """Width of an embedding of ``size`` values: the fourth root rule, in steps of 4, at most 32."""
    return int(min(32, 4 * max(1, round(1.5 * size**0.25 / 4 * 2))))


class FeatureEncoder(tf.keras.layers.Layer):
    """Concatenates an embedding of every indexed feature with the numbers and the vectors.

    A ragged feature ([b, n], padded with ``PAD``) is the mean of its embeddings; an empty one is zero.

    Args:
        encodings: the features.
        widths: of embeddings, by encoding, where they are not the ones of ``embedding_width``.
    """

    def __init__(
        self, encodings: Sequence[Encoding], widths: Mapping[str, int] = MappingProxyType({}), **kwargs: object
    ) -> None:
        super().__init__(**kwargs)
        self.encodings = tuple(encodings)
        self.embeddings = {
            encoding.name: tf.keras.layers.Embedding(
                encoding.size, widths.get(encoding.name, embedding_width(encoding.size)), name=encoding.name
            )
            for encoding in self.encodings
            if encoding.form in ("index", "indices")
        }

    def call(self, features: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Features by encoding name, as ``Encoding.form`` says, to [b, width] float32."""
        parts = []
        for encoding in self.encodings:
            values = features[encoding.name]
            if encoding.form == "index":
                parts.append(self.embeddings[encoding.name](values))
            elif encoding.form == "indices":
                parts.append(masked_mean(self.embeddings[encoding.name](tf.maximum(values, 0)), values != PAD))
            elif encoding.form == "number":
                parts.append(tf.cast(values, tf.float32)[..., tf.newaxis])
            else:
                parts.append(values)
        return tf.concat(parts, axis=-1)


def masked_mean(vectors: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Mean over axis 1 of [b, n, dim] where ``mask`` [b, n] holds; zeros where it never does."""
    weights = tf.cast(mask, vectors.dtype)
    total = tf.reduce_sum(vectors * weights[:, :, tf.newaxis], axis=1)
    return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=1, keepdims=True))
