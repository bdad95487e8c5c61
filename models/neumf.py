"""Neural matrix factorisation (He et al. 2017, doi:10.1145/3038912.3052569) as a ranker over candidates.

A product of the two ids' factors and a perceptron over two others, added up. The perceptron is why no index can
search it, and why it ranks what another model retrieved.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.model_choices import NeuMf
from twotower.models.contract import Features
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.pair_training import adam, n_steps, train_on_pairs
from twotower.models.id_embeddings import IdEmbedding
from twotower.models.ranking_contract import Ranker, RankingData

Int64 = npt.NDArray[np.int64]

# Users of a batch that share their sampled items.
GROUP = 64


def fit(data: RankingData) -> Ranker:
    """Train on who bought what; the history's order, the features and retrieval are not looked at."""
    choice = data.spec.ranking
    assert isinstance(choice, NeuMf)
    n_items = len(data.catalogue)
    pairs = interaction_matrix(data.train.history, n_items).tocoo()
    users = data.train.rows[pairs.row]
    network = train(
        choice, users, pairs.col.astype(np.int64), data.n_users, n_items, seed=data.spec.seed, folder=data.folder
    )
    return NeuMfRanker(network)


def train(
    choice: NeuMf, users: Int64, items: Int64, n_users: int, n_items: int, *, seed: int, folder: Path
) -> NeuMfNetwork:
    """Fit to pairs [n] of user rows (``n_users`` = unknown) and item rows, and leave the curve in ``folder``."""
    tf.keras.utils.set_random_seed(seed)
    network = NeuMfNetwork(
        choice, np.bincount(users, minlength=n_users)[:n_users], np.bincount(items, minlength=n_items)
    )
    optimizer = adam(choice.learning_rate, choice.epochs * n_steps(len(users), choice.batch_size))

    def step(asked: tf.Tensor, bought: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = network.loss(asked, bought)
        variables = network.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    train_on_pairs(step, users, items, batch_size=choice.batch_size, epochs=choice.epochs, seed=seed, folder=folder)
    return network


class NeuMfNetwork(tf.keras.Model):
    """Logits of users and items.

    Args:
        choice: the settings.
        user_counts: [n_users] how often training saw each.
        item_counts: [n_items] the same.
    """

    def __init__(self, choice: NeuMf, user_counts: Int64, item_counts: Int64) -> None:
        super().__init__()
        self._choice, self._n_items = choice, len(item_counts)

        def ids(counts: Int64, name: str) -> IdEmbedding:
            # The first half is multiplied, the second half goes through the perceptron.
            return IdEmbedding(
                counts, min_count=choice.min_id_count, dim=2 * choice.factors, dropout=choice.id_dropout, name=name
            )

        first, *others = choice.units
        self.user_ids, self.item_ids = ids(user_counts, "user_ids"), ids(item_counts, "item_ids")
        # A dense layer of the two vectors together, as the sum of one of each: a user's part is computed once.
        self._of_user = tf.keras.layers.Dense(first)
        self._of_item = tf.keras.layers.Dense(first, use_bias=False)
        self._hidden = [tf.keras.layers.Dense(units, activation="relu") for units in others]
        # From ones on: a plain dot product.
        self._from_product = self.add_weight(name="from_product", shape=[choice.factors], initializer="ones")
        self._from_hidden = tf.keras.layers.Dense(1)

    def call(self, users: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Vectors [b, m, 2 * factors] of users and [b, n, 2 * factors] of items to logits [b, m, n]."""
        user_product, user_hidden = tf.split(users, 2, axis=2)
        item_product, item_hidden = tf.split(items, 2, axis=2)
        hidden = tf.nn.relu(
            self._of_user(user_hidden)[:, :, tf.newaxis, :] + self._of_item(item_hidden)[:, tf.newaxis, :, :]
        )
        for layer in self._hidden:
            hidden = layer(hidden)
        product = tf.matmul(user_product * self._from_product, item_product, transpose_b=True)
        return product + self._from_hidden(hidden)[:, :, :, 0]

    def loss(self, users: tf.Tensor, bought: tf.Tensor) -> tf.Tensor:
        """Mean log loss of pairs [b], each against ``negatives`` uniform items (as the weight of a shared sample)."""
        choice = self._choice
        size = tf.size(users)
        width = tf.minimum(GROUP, size)
        groups = size // width
        user = self.user_ids(users, training=True)
        sampled = tf.random.uniform([groups, choice.sampled_items], maxval=self._n_items, dtype=tf.int64)
        other = self.item_ids(sampled, training=True)
        item = self.item_ids(bought, training=True)
        positive = self(user[:, tf.newaxis, :], item[:, tf.newaxis, :])
        grouped = tf.reshape(user[: groups * width], [groups, width, user.shape[1]])
        negative = self(grouped, other)
        fit = tf.reduce_mean(tf.nn.softplus(-positive)) + choice.negatives * tf.reduce_mean(tf.nn.softplus(negative))
        size_of = [tf.reduce_mean(tf.reduce_sum(tf.square(vectors), axis=-1)) for vectors in (user, item, other)]
        shrinkage = (1 + choice.negatives) * size_of[0] + size_of[1] + choice.negatives * size_of[2]
        return fit + choice.regularization * shrinkage


class NeuMfRanker(tf.Module):
    """The probability to be bought, by the ids alone; it has no second task."""

    def __init__(self, network: NeuMfNetwork) -> None:
        super().__init__()
        self._network = network

    def __call__(self, features: Features, candidates: tf.Tensor) -> dict[str, tf.Tensor]:
        """``user_id`` [b] and candidates [b, n] to ``bought`` [b, n]."""
        user = self._network.user_ids(features["user_id"])[:, tf.newaxis, :]
        logits = self._network(user, self._network.item_ids(candidates))
        return {"bought": tf.sigmoid(logits[:, 0, :])}
