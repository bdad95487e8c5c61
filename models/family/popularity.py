"""Popularity as two towers: no vector, and the number of buyers as the item's bias."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from twotower.models.baselines import Popularity
from twotower.models.contract import Features, Towers, TrainingData
from twotower.models.family.table_towers import ItemTable


class Nobody(tf.Module):
    """The same query for everyone: [0, 1]."""

    def __call__(self, features: Features) -> tf.Tensor:
        """Query features to [b, 2]."""
        return tf.tile([[0.0, 1.0]], [tf.shape(features["user_id"])[0], 1])


def fit(data: TrainingData) -> Towers:
    """Count the distinct users who bought each item; scores are logarithms of that, and so small numbers."""
    n_items = len(data.catalogue)
    buyers = Popularity(data.train.history, n_items).buyers
    return Towers(Nobody(), ItemTable(np.zeros((n_items, 1), np.float32), np.log1p(buyers).astype(np.float32)))
