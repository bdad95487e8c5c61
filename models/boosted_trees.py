"""Gradient-boosted trees over the ranker's numbers: grown by LightGBM, scored in the graph by plain TensorFlow ops."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.models.ranking_inputs import TrainingLists

MAX_DEPTH = 7
SETTINGS = {
    "objective": "binary",
    "num_leaves": 31,
    "max_depth": MAX_DEPTH,
    "learning_rate": 0.08,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "max_bin": 127,
    "use_missing": False,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}


def grow(training: TrainingLists, trees: int, seed: int) -> lightgbm.Booster:
    """Trees that tell bought candidates by their numbers, each candidate with its weight."""
    lists, real = training.lists, training.lists.weight > 0
    dataset = lightgbm.Dataset(
        training.numbers[real].astype(np.float32), lists.bought[real], weight=lists.weight[real], free_raw_data=True
    )
    return lightgbm.train({**SETTINGS, "seed": seed}, dataset, trees)


class BoostedTrees(tf.Module):
    """A LightGBM model of numeric features, as tables of nodes; a node's children stand side by side.

    Args:
        booster: grown with ``SETTINGS``.
    """

    def __init__(self, booster: lightgbm.Booster) -> None:
        super().__init__()
        nodes: list[tuple[int, float, int, float]] = []  # feature, threshold, left child, value
        roots = []
        for tree in booster.dump_model()["tree_info"]:
            roots.append(len(nodes))
            nodes.append(_LEAF)
            _fill(nodes, roots[-1], tree["tree_structure"])
        features, thresholds, left, values = zip(*nodes, strict=True)
        self._roots = tf.Variable(np.array(roots, np.int32), trainable=False)
        self._features = tf.Variable(np.array(features, np.int32), trainable=False)
        self._thresholds = tf.Variable(_at_most(np.array(thresholds)), trainable=False)
        self._left = tf.Variable(np.array(left, np.int32), trainable=False)
        self._values = tf.Variable(np.array(values, np.float32), trainable=False)

    def __call__(self, numbers: tf.Tensor) -> tf.Tensor:
        """[b, n, width] features to [b, n] logits."""
        shape, width = tf.shape(numbers), numbers.shape[2]
        # Trees are grown on half precision, and a threshold between 0 and a number that rounds to 0 means nothing.
        flat = tf.reshape(tf.cast(tf.cast(numbers, tf.float16), tf.float32), [-1])
        rows = tf.range(shape[0] * shape[1])[:, tf.newaxis] * width
        node = tf.repeat(self._roots[tf.newaxis], shape[0] * shape[1], axis=0)
        for _ in range(MAX_DEPTH):
            value = tf.gather(flat, rows + tf.gather(self._features, node))
            node = tf.gather(self._left, node) + tf.cast(value > tf.gather(self._thresholds, node), tf.int32)
        return tf.reshape(tf.reduce_sum(tf.gather(self._values, node), axis=1), shape[:2])


# What a node is until its children are known.
_LEAF = (0, np.inf, 0, 0.0)


def _fill(nodes: list[tuple[int, float, int, float]], place: int, found: dict[str, Any]) -> None:
    """Write the node ``found`` of LightGBM's dump at ``place``, and those under it behind all there are."""
    if "leaf_value" in found:
        # Nothing exceeds its threshold: a leaf leads to itself.
        nodes[place] = (0, np.inf, place, found["leaf_value"])
        return
    if found["decision_type"] != "<=":
        raise ValueError(f"trees: found a split by '{found['decision_type']}', expected numeric features alone")
    left = len(nodes)
    nodes[place] = (found["split_feature"], found["threshold"], left, 0.0)
    nodes.extend((_LEAF, _LEAF))
    _fill(nodes, left, found["left_child"])
    _fill(nodes, left + 1, found["right_child"])


def _at_most(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The largest float32 at most each float64: a float32 is at most the one where it is at most the other."""
    near = values.astype(np.float32)
    return np.where(near > values, np.nextafter(near, np.float32(-np.inf)), near)
