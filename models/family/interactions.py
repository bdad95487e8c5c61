"""Who bought what, as a sparse matrix."""

from __future__ import annotations

import numpy as np
import scipy.sparse

from twotower.features.timelines import Timelines
from twotower.models.metrics import ItemSets


def interaction_matrix(history: Timelines, n_items: int) -> scipy.sparse.csr_matrix:
    """[users, n_items] float32: 1 where the user bought the item, however often; unknown items are left out.

    Raises:
        ValueError: nobody bought a known item.
    """
    bought = ItemSets.bought(history, n_items)
    if not len(bought.indices):
        raise ValueError("retrieval training needs at least one event with an item of the catalogue, found none")
    ones = np.ones(len(bought.indices), np.float32)
    return scipy.sparse.csr_matrix((ones, bought.indices, bought.indptr), (history.n_users, n_items))


def normalised(
    purchases: scipy.sparse.csr_matrix, user_power: float = 0.5, item_power: float = 0.5
) -> scipy.sparse.csr_matrix:
    """[users, n_items] float32: purchases over the users' and the items' degrees to a power.

    Roots are the graph's symmetric normalisation (LightGCN, GF-CF). A row or column without purchases stays zero.
    """
    users = np.maximum(np.asarray(purchases.sum(axis=1)).ravel(), 1)
    items = np.maximum(np.asarray(purchases.sum(axis=0)).ravel(), 1)
    scaled = scipy.sparse.diags(users**-user_power) @ purchases @ scipy.sparse.diags(items**-item_power)
    return scaled.tocsr().astype(np.float32)
