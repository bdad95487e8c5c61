"""Item-item cosine (Sarwar et al. 2001, doi:10.1145/371920.372071): what is bought by the same people.

The similarity of two items is the cosine of their columns in who bought what, and an item's score the sum of
its similarities to the history's items. With columns of length 1 the similarities are a Gram matrix, so
that at rank ``factors`` an item has one vector, in the history and as a candidate.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse

from twotower.features.model_choices import ItemCosine
from twotower.models.contract import Towers, TrainingData
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.low_rank import right_singular
from twotower.models.family.table_towers import HistorySum, ItemTable


def fit(data: TrainingData) -> Towers:
    """Decompose who bought what with columns of length 1; an item that nobody bought is like none."""
    choice = data.spec.retrieval
    assert isinstance(choice, ItemCosine)
    matrix = interaction_matrix(data.train.history, len(data.catalogue))
    buyers = matrix.getnnz(axis=0)
    unit = (matrix @ scipy.sparse.diags(np.maximum(buyers, 1) ** -0.5)).astype(np.float32)
    values, right = right_singular(unit, choice.factors, data.spec.seed)
    vectors = right * values
    # Without a history: what the average user would be given.
    average = (buyers @ vectors) / len(data.train)
    return Towers(HistorySum(vectors, 0, average), ItemTable(vectors, np.zeros(len(vectors), np.float32)))
