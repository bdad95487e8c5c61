"""The ranker's lists: candidates at past moments, joined with the user's own items, and what became of them.

A list is a user at a snapshot. Its candidates are retrieved items and the items of the history, both as of the
snapshot; an item is positive if it is bought within the horizon after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models.queries import DAY, Queries
from twotower.models.tables import Users

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

# users [b], cuts [b], times [b] to retrieved items [b, candidates], padded with the catalogue's size.
Retrieve = Callable[[Int64, Int64, Int64], Int32]


class NoLists(ValueError):  # noqa: N818 (it is no error where other snapshots have lists)
    """Nobody bought a candidate."""


@dataclass(frozen=True)
class RankingLists:
    """Lists of candidates with what became of them.

    Attributes:
        users: [lists] rows of the users; times: [lists] the snapshots; cuts: [lists] ends of the histories.
        candidates: [lists, list_size] catalogue rows, padded with the catalogue's size.
        bought, quantity: [lists, list_size] the labels.
        weight: [lists, list_size] how many candidates each stands for; 0 = padding.
    """

    users: Int64
    times: Int64
    cuts: Int64
    candidates: Int32
    bought: Float32
    quantity: Float32
    weight: Float32

    def __len__(self) -> int:
        return len(self.users)


def build_lists(
    spec: Spec,
    users: Users,
    n_items: int,
    snapshots: Sequence[int | Int64],
    until: int,
    retrieve: Retrieve,
    seed: int,
    limit: int,
) -> RankingLists:
    """Lists of the users with a history at each snapshot who bought something in its horizon.

    Args:
        spec: the horizon and the list size.
        users: with the events of ``history`` up to ``until``, and ``labels`` after them.
        n_items: size of the catalogue.
        snapshots: unix seconds, each one moment for everybody or [users] one for each.
        until: no event at or after this time is seen, as a label or otherwise.
        retrieve: what else is a candidate.
        seed: of the choice of users and of negatives.
        limit: users that have a list at a snapshot, at most.

    Raises:
        NoLists: there is no such list.
    """
    choice = spec.ranking
    random = np.random.default_rng(seed)
    queries = Queries(spec, users, n_items)
    history, horizon = users.history, choice.horizon_days * DAY
    rows: list[tuple[int, int, int]] = []
    lists: list[tuple[Int32, Float32, Float32, Float32]] = []
    for snapshot in snapshots:
        everyone = np.arange(len(users))
        moments = np.broadcast_to(np.int64(snapshot), len(users))
        cuts = queries.cuts(everyone, moments)
        ends = queries.cuts(everyone, np.minimum(moments + horizon, until))
        asked = everyone[(cuts > history.offsets[:-1]) & (ends > cuts)]
        if len(asked) > limit:
            asked = np.sort(random.permutation(asked)[:limit])
        for start in range(0, len(asked), 512):
            block = asked[start : start + 512]
            found = retrieve(block, cuts[block], moments[block])
            for user, retrieved in zip(block, found, strict=True):
                own = history.items[max(history.offsets[user], cuts[user] - choice.history_length) : cuts[user]]
                future = slice(cuts[user], ends[user])
                entry = _list(
                    own, retrieved, history.items[future], history.quantities[future], n_items, choice.list_size, random
                )
                if entry is not None:
                    rows.append((int(user), int(moments[user]), int(cuts[user])))
                    lists.append(entry)
    if not rows:
        raise NoLists(
            "ranker training needs a user who bought a candidate within the horizon of a snapshot, found none"
        )
    owners, times, ends = np.array(rows, dtype=np.int64).T
    candidates, bought, quantity, weight = (np.stack(parts) for parts in zip(*lists, strict=True))
    return RankingLists(owners, times, ends, candidates, bought, quantity, weight)


def _list(
    own: Int32,
    retrieved: Int32,
    future: Int32,
    quantities: Float32,
    n_items: int,
    size: int,
    random: np.random.Generator,
) -> tuple[Int32, Float32, Float32, Float32] | None:
    """One list: the positives among the candidates, and random others, as many own items as new ones.

    Candidates that were left out count through those of their kind that were kept: probabilities stay calibrated.
    """
    own, retrieved = (np.unique(items[items < n_items]) for items in (own, retrieved))
    retrieved = np.setdiff1d(retrieved, own)
    candidates = np.concatenate([own, retrieved])
    positives = candidates[np.isin(candidates, future)]
    if not len(positives):
        return None
    kept = random.permutation(positives)[: size - 1]
    others = [random.permutation(items[~np.isin(items, future)]) for items in (own, retrieved)]
    room = size - len(kept)
    # What one kind leaves free the other takes.
    n_own = min(len(others[0]), max(room // 2, room - len(others[1])))
    negatives = [others[0][:n_own], others[1][: room - n_own]]
    chosen = np.concatenate([kept, *negatives])
    distinct, place = np.unique(future, return_inverse=True)
    amounts = np.bincount(place, quantities)
    rows = np.full(size, n_items, dtype=np.int32)
    bought, quantity, weight = (np.zeros(size, dtype=np.float32) for _ in range(3))
    rows[: len(chosen)] = chosen
    bought[: len(kept)] = 1.0
    quantity[: len(kept)] = amounts[np.searchsorted(distinct, kept)]
    standing = [len(items) for items in others]
    for kind, other in ((0, 1), (1, 0)):
        if len(negatives[other]) and not len(negatives[kind]):  # no place of its own
            standing[other] += standing[kind]
    kinds = zip([len(positives), *standing], [kept, *negatives], strict=True)
    weight[: len(chosen)] = np.concatenate([np.full(len(some), n / max(1, len(some))) for n, some in kinds])
    return rows, bought, quantity, weight


def list_features(queries: Queries, lists: RankingLists, index: tf.Tensor, length: int) -> dict[str, tf.Tensor]:
    """Query features and candidates of the lists ``index`` [b]."""
    features = queries.features(
        tf.gather(lists.users, index), tf.gather(lists.cuts, index), tf.gather(lists.times, index), length
    )
    return {**features, "candidates": tf.gather(lists.candidates, index)}
