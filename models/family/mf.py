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
from twotower.models.family.pair_training import n_steps, train_on_pairs
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
    """Fit to pairs [n] of users and items by SGD, whose rate falls to nothing along a cosine.

    A batch sums the updates that the paper makes one after the other, so that ``learning_rate`` and ``regularization``
    mean what they do there. It is no larger than the users or items are many, for the sum must stay small.
    """
    tf.keras.utils.set_random_seed(seed)
    model = _Mf(choice, n_users, n_items)
    batch_size = min(choice.batch_size, n_users, n_items)
    done = tf.Variable(0, dtype=tf.int64)
    rate = tf.keras.optimizers.schedules.CosineDecay(
        choice.learning_rate, choice.epochs * n_steps(len(users), batch_size)
    )

    def step(asked: tf.Tensor, bought: tf.Tensor) -> tf.Tensor:
        loss = model.update(asked, bought, rate(done))
        done.assign_add(1)
        return loss

    train_on_pairs(
        step,
        users,
        items,
        batch_size=batch_size,
        epochs=choice.epochs,
        seed=seed,
        folder=folder,
    )
    found = model.items.numpy()
    return Factors(model.users.numpy()[:, :-1], found[:, :-1], found[:, -1])


class _Mf(tf.Module):
    """Tables [n, factors + 1], the biases last; the bias of all stays what the share of negatives makes it."""

    def __init__(self, choice: Mf, n_users: int, n_items: int) -> None:
        super().__init__()
        self._choice, self._n_items = choice, n_items
        self.users, self.items = _table(n_users, choice.factors), _table(n_items, choice.factors)
        self._bias = -np.log(choice.negatives)

    def update(self, users: tf.Tensor, bought: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        """One step for pairs [b], each against ``negatives`` uniform items; their mean loss.

        A batch shares one sample, every item of which stands for several negatives: matrix products instead of a
        gather a negative.
        """
        choice = self._choice
        sampled = tf.random.uniform([choice.sampled_items], maxval=self._n_items, dtype=tf.int64)
        user, item, other = tf.gather(self.users, users), tf.gather(self.items, bought), tf.gather(self.items, sampled)
        positive = tf.reduce_sum(user * _with_one(item), axis=1, keepdims=True) + item[:, -1:] + self._bias
        negative = tf.matmul(user, _with_one(other), transpose_b=True) + other[:, -1] + self._bias
        share = choice.negatives / choice.sampled_items
        # What the log loss gains by a higher score.
        up, down = tf.sigmoid(-positive), share * tf.sigmoid(negative)
        # A row is shrunk as often as it is met, as a positive or a negative.
        shrunk = choice.regularization * user * (1 + choice.negatives)
        to_user = up * _with_one(item) - tf.matmul(down, _with_one(other)) - shrunk
        to_item = up * _with_one(user) - choice.regularization * item
        met = share * tf.cast(tf.size(users), tf.float32)
        to_other = -tf.matmul(down, _with_one(user), transpose_a=True) - choice.regularization * met * other
        self.users.scatter_add(tf.IndexedSlices(rate * to_user, users))
        self.items.scatter_add(tf.IndexedSlices(rate * to_item, bought))
        self.items.scatter_add(tf.IndexedSlices(rate * to_other, sampled))
        return tf.reduce_mean(tf.nn.softplus(-positive)) + choice.negatives * tf.reduce_mean(tf.nn.softplus(negative))


def _table(rows: int, factors: int) -> tf.Variable:
    return tf.Variable(tf.concat([tf.random.normal([rows, factors], stddev=0.1), tf.zeros([rows, 1])], axis=1))


def _with_one(rows: tf.Tensor) -> tf.Tensor:
    """[n, factors + 1], with 1 for the bias: what the other side's vector and bias are multiplied by."""
    return tf.concat([rows[:, :-1], tf.ones_like(rows[:, -1:])], axis=1)
