"""Transformed features to one vector."""

import numpy as np
import pytest
import tensorflow as tf

from twotower.features.encoding import PAD, Encoding
from twotower.models.feature_encoder import FeatureEncoder, embedding_width, masked_mean

ENCODINGS = [
    Encoding("town", "index", 3),
    Encoding("words", "indices", 5),
    Encoding("age", "number", 1),
    Encoding("face", "vector", 2),
]


def encoded(encoder: FeatureEncoder, words: list[list[int]]) -> tf.Tensor:
    rows = len(words)
    return encoder(
        {
            "town": tf.constant([1] * rows, tf.int64),
            "words": tf.constant(words, tf.int64),
            "age": tf.constant([0.5] * rows),
            "face": tf.constant([[7.0, 8.0]] * rows),
        }
    )


def test_parts_stand_side_by_side_in_the_order_of_the_encodings() -> None:
    encoder = FeatureEncoder(ENCODINGS)
    found = encoded(encoder, [[4, 2], [0, PAD], [PAD, PAD]]).numpy()
    town, words = (table.numpy() for table in encoder.trainable_variables)
    assert town.shape == (3, embedding_width(3))
    assert words.shape == (5, embedding_width(5))
    assert found.shape == (3, embedding_width(3) + embedding_width(5) + 1 + 2)
    means = [(words[4] + words[2]) / 2, words[0], np.zeros(embedding_width(5))]
    for row, mean in zip(found, means, strict=True):
        np.testing.assert_allclose(row, [*town[1], *mean, 0.5, 7, 8], atol=1e-6)


def test_padding_gets_no_gradient() -> None:
    encoder = FeatureEncoder([Encoding("words", "indices", 4)])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(encoder({"words": tf.constant([[2, PAD]], tf.int64)}))
    (gradient,) = tape.gradient(loss, encoder.trainable_variables)
    assert tf.convert_to_tensor(gradient).numpy().any(axis=1).tolist() == [False, False, True, False]


def test_masked_mean() -> None:
    vectors = tf.constant([[[1.0, 2.0], [3.0, 6.0], [9.0, 9.0]]] * 2)
    mask = tf.constant([[True, True, False], [False] * 3])
    assert masked_mean(vectors, mask).numpy().tolist() == [[2.0, 4.0], [0.0, 0.0]]


@pytest.mark.parametrize(("size", "width"), [(1, 4), (3, 4), (13, 4), (100, 8), (1_000, 16), (10_000, 32), (10**7, 32)])
def test_widths_grow_slowly_in_steps_of_four(size: int, width: int) -> None:
    # The fourth root of the size, times 3, to the nearest multiple of 4 between 4 and 32.
    assert embedding_width(size) == width
