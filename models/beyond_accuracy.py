"""What lists are like, whether or not they hit: how concentrated, how popular, how much alike their items are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse

from twotower.features.spec import CategoryFeature, Feature, SequenceFeature, TextFeature
from twotower.features.timelines import Int32, Int64, Timelines
from twotower.models.metrics import Float64, ItemSets
from twotower.models.tables import Catalogue


@dataclass(frozen=True)
class Audience:
    """How much each item is bought at all.

    Attributes:
        buyers: [n_items] distinct users who bought the item in train.
        users: users with an event in train.
    """

    buyers: Int64
    users: int

    @classmethod
    def of(cls, train: Timelines, n_items: int) -> Audience:
        """Count them in ``train``."""
        buyers = np.bincount(ItemSets.bought(train, n_items).indices, minlength=n_items)
        return cls(buyers, int(np.count_nonzero(train.lengths)))

    @property
    def share(self) -> Float64:
        """[n_items] the share of users who bought the item."""
        return self.buyers / self.users


@dataclass(frozen=True)
class BeyondAccuracy:
    """Properties of the lists of the users that are asked about, of lists cut at ``k``.

    Attributes:
        gini: of how often each candidate is recommended: 0 if all equally often, 1 if it is always the same one
            (Shani and Gunawardana, "Evaluating recommendation systems", 2011).
        novelty: mean over users of the mean over their lists of -log2(share of users who bought the item), in
            bits (Zhou et al., "Solving the apparent diversity-accuracy dilemma", 2010). An item that nobody
            bought counts as bought by one user.
        diversity: mean over users with two items or more of 1 - the mean cosine of the pairs of items in their
            list (Ziegler et al., "Improving recommendation lists through topic diversification", 2005); None
            where items have no vectors, or no list two items.
        popularity_lift: mean popularity of what is recommended / mean popularity of what the same users had
            bought - 1, each a mean over users of means over items of the share of users who bought it
            (Abdollahpouri et al., "The unfairness of popularity bias in recommendation", 2019). Above 0: more
            popular than what they bought. None where no user bought anything.
    """

    gini: float
    novelty: float
    diversity: float | None
    popularity_lift: float | None


def beyond_accuracy(
    lists: Int32,
    history: ItemSets,
    audience: Audience,
    n_candidates: int,
    k: int,
    vectors: scipy.sparse.csr_matrix | None = None,
) -> BeyondAccuracy:
    """Describe ranked lists.

    Args:
        lists: [users, >= k] item rows, best first, padded with -1 at the end: of the users to ask about only.
        history: what the same users had bought.
        audience: popularity of the items.
        n_candidates: how many items could have been recommended.
        k: places of each list that count.
        vectors: [n_items, d] by which items are alike, such as ``content_vectors``; a zero vector is like none.

    Raises:
        ValueError: there is no recommended item at all.
    """
    top = lists[:, :k]
    users, places = np.nonzero(top >= 0)
    items = top[users, places]
    if not len(items):
        raise ValueError(f"lists: found no item in {len(lists)} lists, so there is nothing to measure")
    listed = np.bincount(users, minlength=len(lists))
    some = listed > 0

    def mean_of_lists(values: Float64) -> float:
        return float((np.bincount(users, values[items], len(lists))[some] / listed[some]).mean())

    return BeyondAccuracy(
        gini=gini(np.bincount(items), n_candidates),
        novelty=mean_of_lists(-np.log2(np.maximum(audience.buyers, 1) / audience.users)),
        diversity=None if vectors is None else _diversity(users, items, listed, vectors),
        popularity_lift=_popularity_lift(top, history, audience.share),
    )


def gini(counts: Int64, n: int) -> float:
    """Gini coefficient of ``counts``, filled up with zeros to ``n`` entries, n / (n - 1) times the plain one.

    So it is 0 where all are equal and 1 where one entry has everything; 0 for a single entry.
    """
    ordered = np.sort(counts[counts > 0]).astype(np.float64)
    if n == 1 or not len(ordered):
        return 0.0
    # 1-based places in the ascending order, behind the zeros.
    places = np.arange(n - len(ordered) + 1, n + 1)
    return float(((2 * places - n - 1) * ordered).sum() / ((n - 1) * ordered.sum()))


def content_vectors(catalogue: Catalogue, features: Mapping[str, Feature]) -> scipy.sparse.csr_matrix | None:
    """[n_items, d] what items are alike by: their labels, words and sequences; None without such features.

    A category is one-hot, a sequence and the words of a text are multi-hot, a missing or unknown value is zero.
    Each feature's part is scaled to length 1, so that a long text does not outweigh a brand, and the parts stand
    side by side. Numbers, times and given vectors are left out.
    """
    encodings = {encoding.name: encoding for encoding in catalogue.encodings}
    parts = []
    for name, feature in features.items():
        if not isinstance(feature, CategoryFeature | SequenceFeature | TextFeature):
            continue
        size = encodings[f"item_{name}"].size
        table = catalogue.features[f"item_{name}"].astype(np.int64).reshape(len(catalogue), -1)
        # The last index of a label is "unknown"; words are hashed, and every index is a word.
        rows, columns = np.nonzero((table >= 0) & (table < size - (not isinstance(feature, TextFeature))))
        part = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, table[rows, columns])), shape=(len(catalogue), size))
        part.data[:] = 1  # for a word that stands there twice
        parts.append(_unit(part))
    return scipy.sparse.hstack(parts, format="csr") if parts else None


def _unit(vectors: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    lengths = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel())
    return scipy.sparse.diags(1 / np.where(lengths > 0, lengths, 1)) @ vectors


def _diversity(users: Int64, items: Int32, listed: Int64, vectors: scipy.sparse.csr_matrix) -> float | None:
    """1 - mean cosine of the pairs; from |sum of unit vectors|^2 = sum of |vector|^2 + 2 sum of the pairs' cosines."""
    enough = listed > 1
    if not enough.any():
        return None
    unit = _unit(scipy.sparse.csr_matrix(vectors))
    lists = scipy.sparse.csr_matrix((np.ones(len(items)), (users, items)), (len(listed), unit.shape[0]))
    total = lists @ unit
    squares = np.asarray(unit.multiply(unit).sum(axis=1)).ravel()
    twice_pairs = np.asarray(total.multiply(total).sum(axis=1)).ravel() - lists @ squares
    return float(1 - (twice_pairs[enough] / (listed * (listed - 1))[enough]).mean())


def _popularity_lift(top: Int32, history: ItemSets, share: Float64) -> float | None:
    both = (history.lengths > 0) & (top >= 0).any(axis=1)
    if not both.any():
        return None
    bought = np.bincount(history.users, share[history.indices], len(top))[both] / history.lengths[both]
    listed = np.where(top >= 0, share[top], 0).sum(axis=1)[both] / (top >= 0).sum(axis=1)[both]
    # Asked users may have bought nothing that anybody in train bought.
    return float(listed.mean() / bought.mean() - 1) if bought.any() else None
