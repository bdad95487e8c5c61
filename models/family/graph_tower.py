"""Graph-fed towers: the low frequencies of the graph of who bought what, folded into two tables of item vectors.

A low-pass filter over the item-item graph (GF-CF, Shen et al. 2021, doi:10.1145/3459637.3482264) is a matrix of low
rank, and so a dot product: the query sums left vectors over the history, the candidate is a right vector. Nothing is
learnt of a user, so a new one is served like any other. GF-CF normalises by the square roots of the degrees and lets
the frequencies that pass weigh the same; here these powers are settings, and how many frequencies pass is chosen on
purchases that are held out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.utils.extmath import randomized_svd

from twotower.features.model_choices import GraphTower
from twotower.models.contract import Towers, TrainingData
from twotower.models.family.interactions import interaction_matrix, normalised
from twotower.models.family.table_towers import Float32, HistorySum, ItemTable
from twotower.models.splits import given_pairs
from twotower.models.training import progress

# Power iterations of the randomised SVD (Halko et al. 2011); more change no metric in the third place.
POWER_ITERATIONS = 3
# Users whose purchases are held out to choose the rank, and which share of theirs.
HELD_OUT_USERS, HELD_OUT_SHARE = 1000, 0.2
FEWEST_FACTORS = 16
CUTOFF = 20


@dataclass(frozen=True)
class GraphFilter:
    """``purchases @ left @ right.T`` is the filtered matrix; both [n_items, rank], lowest frequency first."""

    left: Float32
    right: Float32

    @classmethod
    def of(cls, purchases: scipy.sparse.csr_matrix, choice: GraphTower, seed: int) -> GraphFilter:
        """Decompose ``purchases`` [users, n_items].

        With the user and item degrees d_u and d_i, and the singular values S and right singular vectors V of
        D_u^-user_power R D_i^-item_power, left @ right.T is D_i^-output_power V S^spectrum_power V' D_i^output_power.
        """
        item_degree = np.maximum(np.asarray(purchases.sum(axis=0)).ravel(), 1)
        graph = normalised(purchases, choice.user_power, choice.item_power)
        rank = min(choice.factors, *purchases.shape)
        _, values, vectors = randomized_svd(graph, rank, n_iter=POWER_ITERATIONS, random_state=seed)
        weight = item_degree[:, np.newaxis] ** choice.output_power
        # Half of the spectrum's weight on either side.
        scaled = vectors.T * values ** (choice.spectrum_power / 2)
        return cls(np.asarray(scaled / weight, np.float32), np.asarray(scaled * weight, np.float32))

    def first(self, rank: int) -> GraphFilter:
        """The lowest ``rank`` frequencies alone."""
        return GraphFilter(self.left[:, :rank], self.right[:, :rank])


def fit(data: TrainingData) -> Towers:
    """Decompose the normalised purchases, twice: without those held out, to choose the rank, and whole."""
    choice = data.spec.retrieval
    assert isinstance(choice, GraphTower)
    purchases = interaction_matrix(data.train.history, len(data.catalogue))
    rank = best_rank(purchases, choice, data.spec.seed)
    chosen = GraphFilter.of(purchases, choice.model_copy(update={"factors": rank}), data.spec.seed)
    # The root of the history's length keeps the scores of long and short histories of one size.
    lengths = np.maximum(purchases.getnnz(axis=1), 1)[:, np.newaxis]
    average = np.mean((purchases @ chosen.left) / np.sqrt(lengths), axis=0)
    query = HistorySum(chosen.left, power=0.5, empty=average)
    return Towers(query, ItemTable(chosen.right, np.zeros(len(chosen.right), np.float32)))


def best_rank(purchases: scipy.sparse.csr_matrix, choice: GraphTower, seed: int) -> int:
    """The power of two, or ``factors``, with the highest NDCG on held-out purchases, all other items ranked.

    Where nobody bought enough to hold something out, all factors.
    """
    random = np.random.default_rng(seed)
    held_out = _held_out(purchases, random)
    if not len(held_out):
        return choice.factors
    pairs = purchases.tocoo()
    is_held = np.zeros(pairs.nnz, dtype=bool)
    is_held[held_out] = True
    kept = scipy.sparse.csr_matrix((pairs.data[~is_held], (pairs.row[~is_held], pairs.col[~is_held])), purchases.shape)
    asked, rows = np.unique(pairs.row[is_held], return_inverse=True)
    history = kept[asked].tocoo()
    protocol = given_pairs(history.row, history.col, rows, pairs.col[is_held], len(asked), purchases.shape[1], k=CUTOFF)
    graph = GraphFilter.of(kept, choice, seed)
    found = {}
    for rank in _ranks(graph.left.shape[1]):
        part = graph.first(rank)
        found[rank] = protocol.evaluate_vectors(kept[asked] @ part.left, part.right, "new").ndcg
    best = max(found, key=lambda rank: found[rank])
    progress.info(
        "NDCG@%d of held-out purchases by factors: %s; %d chosen",
        CUTOFF,
        "  ".join(f"{rank} {value:.4f}" for rank, value in found.items()),
        best,
    )
    return best


def _held_out(purchases: scipy.sparse.csr_matrix, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Places of pairs: a share of the purchases of some users who have enough."""
    lengths = np.diff(purchases.indptr)
    enough = np.flatnonzero(lengths * HELD_OUT_SHARE >= 1)
    users = random.permutation(enough)[:HELD_OUT_USERS]
    parts = [
        purchases.indptr[user] + random.permutation(lengths[user])[: int(lengths[user] * HELD_OUT_SHARE)]
        for user in users
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _ranks(most: int) -> list[int]:
    """16, 32, 64, ... below ``most``, and ``most``."""
    ranks = []
    rank = FEWEST_FACTORS
    while rank < most:
        ranks.append(rank)
        rank *= 2
    return [*ranks, most]
