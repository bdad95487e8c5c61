"""UltraGCN (Mao et al. 2021, doi:10.1145/3459637.3482291): the limit of endless smoothing as a loss, without a graph.

A purchase and an item that was not bought weigh in the log loss what a converged graph convolution makes them weigh;
users are drawn to the neighbours of what they bought, too. What differs from the paper: a user has no embedding of
their own but the sum of what the history's items pass on, so that new users are served as trained ones are; items
have a bias, which starts where the loss of the negatives wants it; and a step takes users with all their purchases,
which share their negatives.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import tensorflow as tf

from twotower.features.model_choices import UltraGcn
from twotower.models.contract import Towers, TrainingData
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.item_neighbours import Neighbours
from twotower.models.family.pair_training import n_steps, train_on_batches
from twotower.models.family.table_towers import Float32, HistorySum, ItemTable
from twotower.models.lazy_adam import LazyAdam

# Spread of the embeddings before training.
STDDEV = 0.1
# Items whose neighbours are counted at a time.
BLOCK = 1024


def fit(data: TrainingData) -> Towers:
    """Train what items pass on to their buyers and what they are as candidates."""
    choice = data.spec.retrieval
    assert isinstance(choice, UltraGcn)
    purchases = interaction_matrix(data.train.history, len(data.catalogue))
    tf.keras.utils.set_random_seed(data.spec.seed)
    model = UltraGcnModel(purchases, co_bought(purchases, choice.neighbours), choice)
    buyers = np.flatnonzero(purchases.getnnz(axis=1))
    steps = choice.epochs * n_steps(len(buyers), choice.batch_size)
    optimizer = LazyAdam(tf.keras.optimizers.schedules.CosineDecay(choice.learning_rate, steps))

    def step(users: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.loss(users)
        optimizer.apply_gradients(zip(tape.gradient(loss, model.tables), model.tables, strict=True))
        return loss

    train_on_batches(
        step, [buyers], batch_size=choice.batch_size, epochs=choice.epochs, seed=data.spec.seed, folder=data.folder
    )
    passed_on = model.passed_on.numpy()
    lengths = np.maximum(purchases.getnnz(axis=1), 1)[:, np.newaxis]
    average = np.mean((purchases @ passed_on)[buyers] / np.sqrt(lengths[buyers]), axis=0)
    return Towers(HistorySum(passed_on, power=0.5, empty=average), ItemTable(model.items.numpy(), model.bias.numpy()))


class UltraGcnModel(tf.Module):
    """The tables, who bought what, and what each pair weighs.

    Args:
        purchases: [users, items] who bought what.
        neighbours: of each item.
        choice: the settings.
    """

    def __init__(self, purchases: scipy.sparse.csr_matrix, neighbours: Neighbours, choice: UltraGcn) -> None:
        super().__init__()
        self._choice, self._n_items = choice, purchases.shape[1]
        shape = [self._n_items, choice.factors]
        self.passed_on = tf.Variable(tf.random.normal(shape, stddev=STDDEV))
        self.items = tf.Variable(tf.random.normal(shape, stddev=STDDEV))
        # A purchase stands against ``negatives`` items: where nothing is known it is one in so many.
        self.bias = tf.Variable(tf.fill([self._n_items], -np.log(np.float32(choice.negatives))))
        self.tables = [self.passed_on, self.items, self.bias]
        self._bought = tf.RaggedTensor.from_row_splits(
            purchases.indices.astype(np.int64), purchases.indptr.astype(np.int64)
        )
        of_user, of_item = beta(purchases)
        self._of_user, self._of_item = tf.constant(of_user), tf.constant(of_item)
        total = neighbours.weights.sum(axis=1, keepdims=True)
        self._neighbours, self._omega = tf.constant(neighbours.items), tf.constant(total[:, 0])
        self._up_to = tf.constant(np.cumsum(neighbours.weights, axis=1) / np.maximum(total, np.finfo(np.float32).tiny))

    def loss(self, users: tf.Tensor) -> tf.Tensor:
        """Loss a purchase of distinct users [b], and the size of the embeddings that it met."""
        choice = self._choice
        bought = tf.gather(self._bought, users)
        rows, owners = bought.flat_values, bought.value_rowids()
        count = tf.cast(bought.row_lengths(), tf.float32)
        passed_on, items = tf.gather(self.passed_on, rows), tf.gather(self.items, rows)
        queries = tf.math.segment_sum(passed_on, owners) / tf.sqrt(count)[:, tf.newaxis]
        of_user, owner = tf.gather(self._of_user, users), tf.gather(queries, owners)
        weight = tf.gather(of_user, owners) * tf.gather(self._of_item, rows)
        score = tf.reduce_sum(owner * items, axis=1) + tf.gather(self.bias, rows)
        positive = tf.reduce_sum(weight * tf.nn.softplus(-score))

        sampled = tf.random.uniform([choice.sampled_items], maxval=self._n_items, dtype=tf.int64)
        others = tf.gather(self.items, sampled)
        scores = tf.matmul(queries, others, transpose_b=True) + tf.gather(self.bias, sampled)
        # Each purchase stands against its share of the sample.
        weights = (count * of_user)[:, tf.newaxis] * tf.gather(self._of_item, sampled)
        negative = tf.reduce_sum(weights * tf.nn.softplus(scores)) * choice.negatives / choice.sampled_items

        near = self._draw(rows)
        score = tf.reduce_sum(owner * tf.gather(self.items, near), axis=1) + tf.gather(self.bias, near)
        constraint = tf.reduce_sum(tf.gather(self._omega, rows) * tf.nn.softplus(-score))

        fit = (positive + negative + choice.constraint_weight * constraint) / tf.reduce_sum(count)
        return fit + choice.regularization * (_mean_square(passed_on) + _mean_square(items) + _mean_square(others))

    def _draw(self, items: tf.Tensor) -> tf.Tensor:
        """A neighbour of each item [n], by its weight: in the mean, the sum over all of them."""
        point = tf.random.uniform([tf.size(items), 1])
        place = tf.reduce_sum(tf.cast(point >= tf.gather(self._up_to, items)[:, :-1], tf.int32), axis=1)
        return tf.gather(tf.gather(self._neighbours, items), place, batch_dims=1)


def beta(purchases: scipy.sparse.csr_matrix) -> tuple[Float32, Float32]:
    """Factors [users] and [items] of what a pair weighs: 1 / d_u * sqrt((d_u + 1) / (d_i + 1)), equation 9.

    d_u and d_i are how many items the user bought and how many buyers the item has.
    """
    users, items = purchases.getnnz(axis=1), purchases.getnnz(axis=0)
    of_user = np.sqrt(users + 1) / np.maximum(users, 1)
    return of_user.astype(np.float32), (1 / np.sqrt(items + 1)).astype(np.float32)


def co_bought(purchases: scipy.sparse.csr_matrix, neighbours: int) -> Neighbours:
    """The other items with the highest omega of each item, and omega itself: equation 13.

    omega_ij = G_ij / (g_i - G_ii) * sqrt(g_i / g_j), with G_ij the users who bought both and g_i the sum of row i.
    """
    n_items = purchases.shape[1]
    buyers = purchases.T.tocsr()
    own = np.diff(buyers.indptr)
    total = np.maximum(buyers @ np.diff(purchases.indptr), 1)
    of_item = np.sqrt(total) / np.maximum(total - own, 1)
    kept, weights = np.zeros((n_items, neighbours), np.int32), np.zeros((n_items, neighbours), np.float32)
    for start in range(0, n_items, BLOCK):
        block = (buyers[start : start + BLOCK] @ purchases).tocsr()
        block.sort_indices()  # of items that are as near, the first stay
        for item, (first, last) in enumerate(zip(block.indptr[:-1], block.indptr[1:], strict=True), start=start):
            others = block.indices[first:last]
            omega = block.data[first:last] * of_item[item] / np.sqrt(total[others])
            omega[others == item] = 0
            best = np.argsort(-omega, kind="stable")[:neighbours]
            best = best[omega[best] > 0]
            kept[item, : len(best)], weights[item, : len(best)] = others[best], omega[best]
    return Neighbours(kept, weights)


def _mean_square(vectors: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(tf.reduce_sum(tf.square(vectors), axis=1))
