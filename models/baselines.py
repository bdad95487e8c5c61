"""The baselines that a model has to beat: what everybody buys, and what this user bought most often.

A baseline's ``score_block`` goes straight into ``EvaluationProtocol.evaluate_scores``.
"""

from __future__ import annotations

import numpy as np

from twotower.features.timelines import Float32, Int64, Timelines
from twotower.models.metrics import Float64, ItemSets


class Popularity:
    """Scores an item by the number of distinct users who bought it; the same for every user."""

    def __init__(self, train: Timelines, n_items: int) -> None:
        """Count the buyers in ``train``; events out of vocabulary (``>= n_items``) do not count."""
        self.buyers: Int64 = np.bincount(ItemSets.bought(train, n_items).indices, minlength=n_items)

    def score_block(self, rows: Int64) -> Float32:
        """[b, n_items] scores of the user rows [b]."""
        return np.broadcast_to(self.buyers.astype(np.float32), (len(rows), len(self.buyers)))


class BoughtMostOften:
    """Scores an item by the number of distinct baskets of the user's own history that hold it.

    A basket is what a user bought at one time. Ties go to the item that more users bought, and so the
    items that the user never bought follow in the order of their popularity.
    """

    def __init__(self, train: Timelines, history: Timelines, n_items: int) -> None:
        """Take the popularity from ``train`` and the baskets from ``history``, the asked users' timelines."""
        self.history = history
        buyers = Popularity(train, n_items).buyers
        # Below 1, so that it never outweighs a basket.
        self.tie_break: Float64 = buyers / (buyers.max(initial=0) + 1)

    def score_block(self, rows: Int64) -> Float64:
        """[b, n_items] scores of the rows [b] of ``history``: baskets, plus less than 1 for popularity."""
        asked = self.history.select(rows)
        known = asked.items < len(self.tie_break)
        # A user's first event of a time names the basket. One integer for each (basket, item), each once.
        lines = np.unique((asked.cuts()[known] << 32) + asked.items[known])
        users, items = asked.users[lines >> 32], lines & 0xFFFFFFFF
        scores = np.tile(self.tie_break, (len(rows), 1))
        np.add.at(scores, (users, items), 1)
        return scores
