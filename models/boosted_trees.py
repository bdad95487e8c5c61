"""Gradient-boosted trees over the ranker's numbers: grown by LightGBM, scored in the graph by plain TensorFlow ops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
import tensorflow as tf

from twotower.models.ranking_inputs import TrainingLists

# The leaves of a tree are the bits of an int32 that is not negative, and its splits fill four bytes.
MAX_LEAVES = 31
BYTE, BYTES = 8, 4
# Candidates scored at a time: the decisions of 200 trees about them take 13 MB.
BLOCK = 1024
SETTINGS = {
    "objective": "binary",
    "num_leaves": MAX_LEAVES,
    "max_depth": 7,
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
    """A LightGBM model of numeric features, scored without walking the trees (after QuickScorer, Lucchese et al. 2015).

    Every split of every tree is decided for all candidates at once. The decisions of eight splits are a byte, by
    which a table gives the leaves that they leave over, a bit a leaf; the leaf that is left over by all of a tree's
    bytes is the one that walking would reach.

    Args:
        booster: grown with ``SETTINGS``.

    Raises:
        ValueError: a split that is no comparison of a number, or a tree of too many leaves.
    """

    def __init__(self, booster: lightgbm.Booster) -> None:
        super().__init__()
        trees = [_Tree.read(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
        # A slot without a split: nothing exceeds its threshold.
        features = np.zeros((BYTE, BYTES, len(trees)), np.int32)
        thresholds = np.full((BYTE, BYTES, len(trees)), np.iinfo(np.int16).max, np.int16)
        left_over = np.full((BYTES, len(trees), 1 << BYTE), -1, np.int32)
        values = np.zeros((len(trees), MAX_LEAVES), np.float32)
        decided = np.arange(1 << BYTE)
        for number, tree in enumerate(trees):
            values[number, : len(tree.values)] = tree.values
            for place, split in enumerate(tree.splits):
                byte, bit = divmod(place, BYTE)
                features[bit, byte, number], thresholds[bit, byte, number] = (
                    split.feature,
                    _rank_at_most(split.threshold),
                )
                left_over[byte, number] &= np.where(decided >> bit & 1, split.right, split.left)
            # No bit of another leaf stays where there is no split at all.
            left_over[0, number] &= (1 << len(tree.values)) - 1
        self._features = tf.Variable(features.ravel(), trainable=False)
        self._thresholds = tf.Variable(thresholds.reshape(BYTE, -1, 1), trainable=False)
        self._left_over = tf.Variable(left_over.ravel(), trainable=False)
        self._values = tf.Variable(values.ravel(), trainable=False)
        self._n_trees = len(trees)

    def __call__(self, numbers: tf.Tensor) -> tf.Tensor:
        """[b, n, width] features to [b, n] logits."""
        # Trees are grown on half precision, and a threshold between 0 and a number that rounds to 0 means nothing.
        ranks = _ranks(tf.bitcast(tf.cast(tf.reshape(numbers, [-1, numbers.shape[2]]), tf.float16), tf.int16))
        tables = [table.read_value() for table in (self._features, self._thresholds, self._left_over, self._values)]
        # Of no candidates one empty block is scored.
        end = tf.maximum(tf.shape(ranks)[0], 1)

        def score_block(start: tf.Tensor, scores: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            return start + BLOCK, scores.write(start // BLOCK, self._score(ranks[start : start + BLOCK], *tables))

        blocks = tf.TensorArray(tf.float32, (end + BLOCK - 1) // BLOCK, infer_shape=False, element_shape=[None])
        _, blocks = tf.while_loop(lambda start, _: start < end, score_block, (0, blocks), parallel_iterations=1)
        return tf.reshape(blocks.concat(), tf.shape(numbers)[:2])

    def _score(
        self, ranks: tf.Tensor, features: tf.Tensor, thresholds: tf.Tensor, left_over: tf.Tensor, values: tf.Tensor
    ) -> tf.Tensor:
        """[n, width] ranks to [n] logits."""
        n = tf.shape(ranks)[0]
        # The candidates stand side by side, eight to an int64, a byte each.
        asked = tf.transpose(tf.pad(ranks, [[0, -n % 8], [0, 0]]))
        right = tf.reshape(tf.gather(asked, features), [BYTE, BYTES * self._n_trees, -1]) > thresholds
        lanes = tf.bitcast(tf.reshape(tf.cast(right, tf.uint8), [BYTE, BYTES * self._n_trees, -1, 8]), tf.int64)
        packed = tf.add_n([lanes[bit] * (1 << bit) for bit in range(BYTE)])
        decisions = tf.reshape(tf.bitcast(packed, tf.uint8), [BYTES, self._n_trees, -1])
        rows = np.arange(BYTES * self._n_trees, dtype=np.int32).reshape(BYTES, self._n_trees, 1) << BYTE
        # gather_nd, because gather takes twice as long for single numbers.
        leaves = tf.gather_nd(left_over, (tf.cast(decisions, tf.int32) + rows)[..., tf.newaxis])
        leaf = leaves[0]
        for byte in range(1, BYTES):
            leaf = tf.bitwise.bitwise_and(leaf, leaves[byte])
        # One bit is left, whose number is the exponent of its value.
        exponent = tf.bitwise.right_shift(tf.bitcast(tf.cast(leaf, tf.float32), tf.int32), 23) - 127
        places = exponent + np.arange(self._n_trees, dtype=np.int32)[:, np.newaxis] * MAX_LEAVES
        return tf.reduce_sum(tf.gather_nd(values, places[..., tf.newaxis]), axis=0)[:n]


@dataclass(frozen=True)
class _Split:
    """``left`` and ``right`` are the leaves that each answer leaves over, a bit a leaf."""

    feature: int
    threshold: float
    left: int
    right: int


@dataclass(frozen=True)
class _Tree:
    splits: Sequence[_Split]
    values: Sequence[float]

    @classmethod
    def read(cls, root: dict[str, Any]) -> _Tree:
        """From LightGBM's dump of a tree."""
        splits: list[_Split] = []
        values: list[float] = []

        def walk(node: dict[str, Any]) -> int:
            """The node's leaves, a bit each."""
            if "leaf_value" in node:
                values.append(node["leaf_value"])
                return 1 << (len(values) - 1)
            if node["decision_type"] != "<=":
                raise ValueError(f"trees: found a split by '{node['decision_type']}', expected numeric features alone")
            left, right = walk(node["left_child"]), walk(node["right_child"])
            splits.append(_Split(node["split_feature"], node["threshold"], ~right, ~left))
            return left | right

        walk(root)
        if len(values) > MAX_LEAVES:
            raise ValueError(f"trees: found a tree of {len(values)} leaves, expected at most {MAX_LEAVES}")
        return cls(splits, values)


def _ranks(bits: tf.Tensor) -> tf.Tensor:
    """The bits of float16 numbers, int16, as whole numbers in the order of the numbers."""
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 15), 0x7FFF))


def _rank_at_most(value: float) -> int:
    """The rank of the largest float16 at most ``value``: a float16 is at most the one where it is at most the other."""
    near = np.float16(value)
    at_most = np.nextafter(near, np.float16(-np.inf)) if float(near) > value else near
    return int(_ranks(tf.constant(at_most.view(np.int16))))
