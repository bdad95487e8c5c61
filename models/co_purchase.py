"""Item vectors from who bought what before a moment, and what they say of a candidate given a history.

A truncated SVD of the normalised purchase matrix smooths item-item co-purchases (GF-CF, Shen et al. 2021,
doi:10.1145/3459637.3482264). It takes seconds, so that each snapshot of the ranker's training has its own: vectors
that were fitted to the snapshot's future would look better in training than they are in serving.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import tensorflow as tf
from sklearn.utils.extmath import randomized_svd

from twotower.features.timelines import Timelines
from twotower.models.family.interactions import normalised
from twotower.models.row_sets import contains

Float32 = npt.NDArray[np.float32]

# An item that fewer bought has no direction of its own.
MIN_BUYERS = 3
# Half-lives, in days, of the history's weights; one is as good as none.
HALF_LIVES = (40, 10_000)
# The latest events that are compared with each candidate, and how many of the closest are averaged.
COMPARED = 300
CLOSEST = 5
CO_PURCHASE_FEATURES = (
    *(f"{kind}_{half_life}" for half_life in HALF_LIVES for kind in ("together", "cosine")),
    "closest",
    "close",
)


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of items: the dot product of one's ``source`` and another's ``target`` is the smoothed co-purchase.

    Attributes:
        vectors: [n_items + 1, d]; 0 for an item with too few buyers, and in the last row, an unknown item's.
        root: [n_items + 1, 1] square root of the buyers, at least 1.
    """

    vectors: Float32
    root: Float32

    @property
    def source(self) -> Float32:
        """[n_items + 1, d] of an item in a history."""
        return self.vectors / self.root

    @property
    def target(self) -> Float32:
        """[n_items + 1, d] of a candidate."""
        return self.vectors * self.root


def item_vectors(history: Timelines, at: int, n_items: int, dim: int, seed: int) -> ItemVectors:
    """Vectors of at most ``dim`` numbers from the purchases strictly before ``at``."""
    before = history.before(at)
    known = before.items < n_items
    pairs = np.unique(before.users[known] * (n_items + 1) + before.items[known])
    bought = sp.csr_matrix(
        (np.ones(len(pairs), np.float32), (pairs // (n_items + 1), pairs % (n_items + 1))),
        shape=(history.n_users, n_items + 1),
    )
    of_item = np.asarray(bought.sum(axis=0)).ravel()
    enough = of_item >= MIN_BUYERS
    root = np.sqrt(np.maximum(of_item, 1)).astype(np.float32)[:, np.newaxis]
    scaled = normalised(bought) @ sp.diags(enough.astype(np.float32))
    rank = min(dim, *bought.shape)
    _, _, right = randomized_svd(scaled.tocsr(), rank, n_iter=3, random_state=seed)
    vectors = np.where(enough[:, np.newaxis], right.T, 0).astype(np.float32)
    vectors = np.pad(vectors, [[0, 0], [0, dim - rank]])
    return ItemVectors(vectors, root)


def interest(source: tf.Tensor, ages: tf.Tensor, half_life: float) -> tf.Tensor:
    """[b, d] the histories' vectors: the ``source`` [b, h, d] of their items, decayed by age [b, h]."""
    return tf.linalg.matvec(source, tf.pow(2.0, -ages / half_life), transpose_a=True)


def co_purchase_features(
    vectors: tf.Tensor, root: tf.Tensor, items: tf.Tensor, ages: tf.Tensor, candidates: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Features [b, n] of the candidates by name.

    For each half-life the smoothed co-purchase with the history and its cosine; and the cosines with the closest
    of the history's other items: the highest, ``closest``, and the mean of some, ``close``.

    Args:
        vectors: [n_items + 1, d] and root: [n_items + 1, 1] of ``ItemVectors``.
        items: [b, h] catalogue rows of the history, most recent first, padded with n_items.
        ages: [b, h] days.
        candidates: [b, n] catalogue rows.
    """
    found = {}
    asked, known = tf.gather(vectors, candidates), tf.gather(vectors, items)
    target, source = asked * tf.gather(root, candidates), known / tf.gather(root, items)
    length = tf.norm(target, axis=2)
    for half_life in HALF_LIVES:
        history = interest(source, ages, half_life)
        score = tf.linalg.matvec(target, history)
        found[f"together_{half_life}"] = score
        found[f"cosine_{half_life}"] = tf.math.divide_no_nan(score, length * tf.norm(history, axis=1, keepdims=True))
    latest = items[:, :COMPARED]
    # An event of an item that is there already has no direction: its cosines are 0, which do not count.
    directions = _direction(known[:, :COMPARED]) * _once(latest, tf.shape(vectors)[0])[:, :, tf.newaxis]
    directions = tf.pad(directions, [[0, 0], [0, tf.maximum(CLOSEST + 1 - tf.shape(latest)[1], 0)], [0, 0]])
    best = tf.math.top_k(tf.matmul(_direction(asked), directions, transpose_b=True), CLOSEST + 1).values
    # An item in the history is nearest to itself.
    own = contains(latest, candidates)[:, :, tf.newaxis]
    closest = tf.nn.relu(tf.where(own, best[:, :, 1:], best[:, :, :-1]))
    return {**found, "closest": closest[:, :, 0], "close": tf.reduce_mean(closest, axis=2)}


def _once(items: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """[b, h] 1 for the first of each item of [b, h] rows below ``size`` in its list, 0 for the others."""
    rows = tf.range(tf.shape(items)[0], dtype=tf.int64)[:, tf.newaxis] * tf.cast(size, tf.int64)
    distinct, place = tf.unique(tf.reshape(rows + tf.cast(items, tf.int64), [-1]))
    firsts = tf.math.unsorted_segment_min(tf.range(tf.size(place)), place, tf.size(distinct))
    once = tf.scatter_nd(firsts[:, tf.newaxis], tf.ones_like(firsts, tf.float32), tf.shape(place))
    return tf.reshape(once, tf.shape(items))


def _direction(vectors: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(vectors, tf.norm(vectors, axis=-1, keepdims=True))
