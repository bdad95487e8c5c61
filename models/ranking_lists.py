"""The ranker's training lists: what retrieval returns at past moments, joined with the user's own items.

A list is a user at a snapshot. Its candidates are the towers' best items and the items of the history, both
as of the snapshot; an item is positive if it is bought within the horizon after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models.queries import DAY, Queries
from twotower.models.ranking import item_statistics
from twotower.models.tables import Users

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

# users [b], cuts [b], times [b] to the towers' best items [b, candidates], padded with the catalogue's size.
Retrieve = Callable[[Int64, Int64, Int64], Int32]


@dataclass(frozen=True)
class RankingLists:
    """Lists of candidates with what became of them.

    Attributes:
        users: [lists] rows of the users; times: [lists] the snapshots; cuts: [lists] ends of the histories.
        snapshots: [lists] which of ``statistics`` a list uses.
        statistics: [snapshots, n_items + 1, s] ``item_statistics`` at each snapshot.
        candidates: [lists, list_size] catalogue rows, padded with the catalogue's size.
        bought, quantity: [lists, list_size] the labels.
        weight: [lists, list_size] how many candidates each stands for; 0 = padding.
    """

    users: Int64
    times: Int64
    cuts: Int64
    snapshots: Int64
    statistics: Float32
    candidates: Int32
    bought: Float32
    quantity: Float32
    weight: Float32

    def __len__(self) -> int:
        return len(self.users)


def build_lists(
    spec: Spec, users: Users, n_items: int, snapshots: list[int], until: int, retrieve: Retrieve, seed: int
) -> RankingLists:
    """Lists of every user with a history at each snapshot who bought something in its horizon.

    Args:
        spec: the horizon and the list size.
        users: with the events of ``history`` up to ``until``, and ``labels`` after them.
        n_items: size of the catalogue.
        snapshots: unix seconds.
        until: no event at or after this time is seen, as a label or otherwise.
        retrieve: the towers' best items.
        seed: of the choice of negatives.

    Raises:
        ValueError: there is no such list.
    """
    choice = spec.ranking
    random = np.random.default_rng(seed)
    queries = Queries(spec, users, n_items)
    history, horizon = users.history, choice.horizon_days * DAY
    rows: list[tuple[int, int, int, int]] = []
    lists: list[tuple[Int32, Float32, Float32, Float32]] = []
    for number, time in enumerate(snapshots):
        everyone = np.arange(len(users))
        cuts = queries.cuts(everyone, np.full(len(users), time))
        ends = queries.cuts(everyone, np.full(len(users), min(time + horizon, until)))
        asked = everyone[(cuts > history.offsets[:-1]) & (ends > cuts)]
        for start in range(0, len(asked), 512):
            block = asked[start : start + 512]
            found = retrieve(block, cuts[block], np.full(len(block), time))
            for user, retrieved in zip(block, found, strict=True):
                own = history.items[max(history.offsets[user], cuts[user] - choice.history_length) : cuts[user]]
                future = slice(cuts[user], ends[user])
                entry = _list(
                    own, retrieved, history.items[future], history.quantities[future], n_items, choice.list_size, random
                )
                if entry is not None:
                    rows.append((int(user), time, int(cuts[user]), number))
                    lists.append(entry)
    if not rows:
        raise ValueError(
            "ranker training needs a user who bought a candidate within the horizon of a snapshot, found none"
        )
    owners, times, ends, numbers = np.array(rows, dtype=np.int64).T
    statistics = np.stack([item_statistics(history, time, n_items) for time in snapshots])
    candidates, bought, quantity, weight = (np.stack(parts) for parts in zip(*lists, strict=True))
    return RankingLists(owners, times, ends, numbers, statistics, candidates, bought, quantity, weight)


def _list(
    own: Int32,
    retrieved: Int32,
    future: Int32,
    quantities: Float32,
    n_items: int,
    size: int,
    random: np.random.Generator,
) -> tuple[Int32, Float32, Float32, Float32] | None:
    """One list: every positive among the candidates and as many random other candidates as fit."""
    candidates = np.unique(np.concatenate([own, retrieved]))
    candidates = candidates[candidates < n_items]
    is_bought = np.isin(candidates, future)
    positives, others = candidates[is_bought], candidates[~is_bought]
    if not len(positives):
        return None
    n_positives = len(positives)
    positives = random.permutation(positives)[: size - 1]
    negatives = random.permutation(others)[: size - len(positives)]
    chosen = np.concatenate([positives, negatives])
    amounts = np.bincount(
        np.searchsorted(np.sort(positives), future[np.isin(future, positives)]),
        weights=quantities[np.isin(future, positives)],
        minlength=len(positives),
    )
    rows = np.full(size, n_items, dtype=np.int32)
    bought, quantity, weight = (np.zeros(size, dtype=np.float32) for _ in range(3))
    rows[: len(chosen)] = chosen
    bought[: len(positives)] = 1.0
    quantity[: len(positives)] = amounts[np.argsort(np.argsort(positives))]
    # Candidates that were left out count through those of their kind that were kept: probabilities stay calibrated.
    weight[: len(positives)] = n_positives / len(positives)
    weight[len(positives) : len(chosen)] = len(others) / max(1, len(negatives))
    return rows, bought, quantity, weight


def list_features(queries: Queries, lists: RankingLists, index: tf.Tensor, length: int) -> dict[str, tf.Tensor]:
    """Query features, candidates and statistics of the lists ``index`` [b]."""
    features = queries.features(
        tf.gather(lists.users, index), tf.gather(lists.cuts, index), tf.gather(lists.times, index), length
    )
    candidates = tf.gather(lists.candidates, index)
    snapshot = tf.repeat(tf.gather(lists.snapshots, index)[:, tf.newaxis], tf.shape(candidates)[1], axis=1)
    places = tf.stack([snapshot, tf.cast(candidates, tf.int64)], axis=2)
    return {**features, "candidates": candidates, "statistics": tf.gather_nd(lists.statistics, places)}


def training_dataset(spec: Spec, queries: Queries, lists: RankingLists, seed: int) -> tf.data.Dataset:
    """One epoch of batches of lists in random order, with their labels and weights."""

    def batch(index: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            **list_features(queries, lists, index, spec.ranking.history_length),
            "bought": tf.gather(lists.bought, index),
            "quantity": tf.gather(lists.quantity, index),
            "weight": tf.gather(lists.weight, index),
        }

    dataset = tf.data.Dataset.range(len(lists)).shuffle(len(lists), seed=seed).batch(spec.ranking.batch_size)
    return dataset.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
