"""Matrix factorisation with biases by log loss against sampled items (Rendle et al. 2020, doi:10.1145/3383313.3412488).

It knows users by their id alone: a user without training events gets the mean user's list.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.model_choices import Mf
from twotower.models.contract import Towers, TrainingData
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.pair_training import adam, n_steps, train_on_pairs
from twotower.models.family.table_towers import Float32, ItemTable, UserTable, in_vocabulary

Int64 = npt.NDArray[np.int64]


class Factors(NamedTuple):
    """Vectors [users, dim] and [items, dim], and the items' biases [items]; a score is their dot product and bias."""

    users: Float32
    items: Float32
    bias: Float32


def fit(data: TrainingData) -> Towers:
    """Factorise who bought what."""
    choice = data.spec.retrieval
    assert isinstance(choice, Mf)
    pairs = interaction_matrix(data.train.history, len(data.catalogue)).tocoo()
    n_users, n_items = pairs.shape
    found = train(
        choice,
        pairs.row.astype(np.int64),
        pairs.col.astype(np.int64),
        n_users,
        n_items,
        seed=data.spec.seed,
        folder=data.folder,
    )
    unknown = found.users.mean(axis=0)
    users = in_vocabulary(found.users, data.train.rows, data.n_users, unknown)
    return Towers(UserTable(users, unknown), ItemTable(found.items, found.bias))


def train(
    choice: Mf,
    users: Int64,
    items: Int64,
    n_users: int,
    n_items: int,
    *,
    seed: int,
    folder: Path,
) -> Factors:
    """Fit to pairs [n] of users and items.

    Each pair stands against ``negatives`` uniform items. A batch shares a larger sample, every item of which
    counts for so much less: one matrix product instead of a gather a negative, and a smaller variance.
    """
    tf.keras.utils.set_random_seed(seed)
    model = _Mf(choice, n_users, n_items)
    optimizer = adam(choice.learning_rate, choice.epochs * n_steps(len(users), choice.batch_size))

    def step(asked: tf.Tensor, bought: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.loss(asked, bought)
        optimizer.apply_gradients(zip(tape.gradient(loss, model.tables), model.tables, strict=True))
        return loss

    train_on_pairs(
        step,
        users,
        items,
        batch_size=choice.batch_size,
        epochs=choice.epochs,
        seed=seed,
        folder=folder,
    )
    return Factors(model.users.numpy(), model.items.numpy(), model.item_bias.numpy())


class _Mf(tf.Module):
    def __init__(self, choice: Mf, n_users: int, n_items: int) -> None:
        super().__init__()
        self._choice, self._n_items = choice, n_items
        self.users = tf.Variable(tf.random.normal([n_users, choice.factors], stddev=0.1))
        self.items = tf.Variable(tf.random.normal([n_items, choice.factors], stddev=0.1))
        self.user_bias, self.item_bias = tf.Variable(tf.zeros(n_users)), tf.Variable(tf.zeros(n_items))
        self.tables = [self.users, self.items, self.user_bias, self.item_bias]

    def loss(self, users: tf.Tensor, bought: tf.Tensor) -> tf.Tensor:
        """Mean loss of pairs [b] against the shared sample."""
        choice = self._choice
        sampled = tf.random.uniform([choice.sampled_items], maxval=self._n_items, dtype=tf.int64)
        user, item, other = tf.gather(self.users, users), tf.gather(self.items, bought), tf.gather(self.items, sampled)
        base = tf.gather(self.user_bias, users)
        positive = tf.reduce_sum(user * item, axis=1) + base + tf.gather(self.item_bias, bought)
        negative = tf.matmul(user, other, transpose_b=True) + base[:, tf.newaxis] + tf.gather(self.item_bias, sampled)
        fit = tf.reduce_mean(tf.nn.softplus(-positive)) + choice.negatives * tf.reduce_mean(tf.nn.softplus(negative))
        # A vector is shrunk as often as it is met, as a positive or a negative.
        size = (1 + choice.negatives) * _mean_square(user) + _mean_square(item) + choice.negatives * _mean_square(other)
        return fit + choice.regularization * size


def _mean_square(vectors: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.reduce_sum(tf.square(vectors), axis=1))
