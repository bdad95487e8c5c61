"""The multi-task ranker's training lists, with features as of each list's snapshot, computed once."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.model_choices import MultiTask
from twotower.features.spec import Spec
from twotower.models.co_purchase import HALF_LIVES, interest
from twotower.models.moments import training_end
from twotower.models.queries import DAY, Queries
from twotower.models.ranking_features import RankingFeatures, Snapshot, item_groups
from twotower.models.ranking_lists import NoLists, RankingLists, Retrieve, build_lists, list_features
from twotower.models.tables import Catalogue, Users
from twotower.models.top_k import top_k, top_k_products

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float16 = npt.NDArray[np.float16]

# Lists whose features are computed at a time.
BLOCK = 32


@dataclass(frozen=True)
class TrainingLists:
    """Lists, and ``numbers`` [lists, list_size, width]: their candidates' features, at half precision."""

    lists: RankingLists
    numbers: Float16


def training_lists(spec: Spec, users: Users, queries: Queries, catalogue: Catalogue) -> TrainingLists:
    """The lists of every snapshot.

    Snapshots lie a horizon and more before training ends, ``snapshot_days`` apart. Statistics, vectors and candidates
    of a list are those of its snapshot: nothing in a list knows what it is asked for.
    """
    choice, n_items, groups = spec.ranking, len(catalogue), item_groups(catalogue)
    assert isinstance(choice, MultiTask)
    length, end = choice.history_length, training_end(spec.split, users.history)
    limit = -(-choice.max_lists // choice.snapshots)
    lists: list[RankingLists] = []
    numbers: list[Float16] = []
    for number in range(choice.snapshots):
        at = end - (choice.horizon_days + number * choice.snapshot_days) * DAY
        snapshot = Snapshot.take(spec, users.history, catalogue, groups, at)
        retrieve = past_candidates(snapshot, queries, n_items, length, choice.candidates)
        try:
            found = build_lists(spec, users, n_items, [at], end, retrieve, spec.seed + number, limit)
        except NoLists:
            if not lists and number == choice.snapshots - 1:
                raise
            continue
        lists.append(found)
        known = found.cuts - users.history.offsets[found.users]
        numbers.append(_numbers(RankingFeatures(groups, snapshot), queries, found, np.minimum(known, length)))
    whole = {f.name: np.concatenate([getattr(each, f.name) for each in lists]) for f in fields(RankingLists)}
    return TrainingLists(RankingLists(**whole), np.concatenate(numbers))


def _numbers(features: RankingFeatures, queries: Queries, lists: RankingLists, known: Int64) -> Float16:
    """[lists, list_size, width] features of the lists' candidates; ``known`` [lists] events of each history count."""
    score = tf.function(lambda asked: features(asked, asked["candidates"]), reduce_retracing=True, autograph=False)
    numbers = np.empty((*lists.candidates.shape, len(features.names)), np.float16)
    # Histories of like length make blocks without much padding.
    order = np.argsort(known, kind="stable")
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        numbers[block] = score(list_features(queries, lists, tf.constant(block), int(known[block].max())))
    return numbers


def past_candidates(snapshot: Snapshot, queries: Queries, n_items: int, length: int, k: int) -> Retrieve:
    """The ``k`` items most bought together with the history, and the ``k`` most bought lately, as of the snapshot.

    They stand in for the towers' items. The towers were trained on all of ``train``, so that what they return at a
    past moment is what would be bought after it too often: a ranker of such lists trusts what it should not.
    """
    source, target = tf.constant(snapshot.vectors.source), snapshot.vectors.target[:n_items]
    statistics = snapshot.statistics
    # Ties of the last two weeks go by the last months.
    lately = (statistics["buyers_14"] + 1e-3 * statistics["buyers_90"])[np.newaxis, :n_items]
    popular = top_k(lately, k)

    def retrieve(users: Int64, cuts: Int64, times: Int64) -> Int32:
        asked = queries.features(tf.constant(users), tf.constant(cuts), tf.constant(times), length)
        items, ages = asked["history_item_id"], asked["history_age"]
        history = interest(tf.gather(source, items), ages, HALF_LIVES[0])
        together = top_k_products(history.numpy(), target, k)
        found: Int32 = np.concatenate([together, np.repeat(popular, len(users), axis=0)], axis=1).astype(np.int32)
        return found

    return retrieve


def training_dataset(spec: Spec, queries: Queries, training: TrainingLists, seed: int) -> tf.data.Dataset:
    """One epoch of batches of lists in random order, with their features, labels and weights."""
    choice, lists = spec.ranking, training.lists
    assert isinstance(choice, MultiTask)
    tables = {"bought": lists.bought, "quantity": lists.quantity, "weight": lists.weight, "numbers": training.numbers}
    index = np.arange(len(lists))

    def batch(rows: tf.Tensor, found: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        found = {name: tf.cast(values, tf.float32) for name, values in found.items()}
        return {**list_features(queries, lists, rows, 0), **found}

    dataset = tf.data.Dataset.from_tensor_slices((index, tables)).shuffle(len(lists), seed=seed)
    dataset = dataset.batch(choice.batch_size, drop_remainder=False)
    return dataset.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)
