"""The trained towers, asked exactly: embeddings of the catalogue and of queries, and their best items."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.section import Precision
from twotower.models.quantized import stored
from twotower.models.queries import Queries
from twotower.models.ranking_lists import Retrieve
from twotower.models.tables import Catalogue
from twotower.models.top_k import top_k_products

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
BLOCK = 8192


class TowerRetriever:
    """Embeddings of a saved ``TowersExport`` over a catalogue and users.

    Args:
        model: folder of the SavedModel.
        catalogue: embedded at once, in blocks.
        queries: who asks.
    """

    def __init__(self, model: str, catalogue: Catalogue, queries: Queries) -> None:
        self._towers = tf.saved_model.load(model)
        self._queries = queries
        self._length = int(self._towers.history_length)
        # As an index stores them: what is measured is what is served.
        precision: Precision = self._towers.precision.numpy().decode()
        self.items = stored(embed_catalogue(self._towers, catalogue), precision).values()

    def embed(self, users: Int64, cuts: Int64, times: Int64) -> Float32:
        """Query embeddings [b, dim] of users [b] at times [b] with the history before cuts [b]."""
        features = self._queries.features(tf.constant(users), tf.constant(cuts), tf.constant(times), self._length)
        return np.asarray(self._towers.query(features))

    def embed_latest(self, users: Int64, times: int | Int64) -> Float32:
        """Query embeddings [b, dim] of users [b] with their whole histories, at one time or [b] one for each."""
        ends = self._queries.history_ends(users)
        return self.embed(users, ends, np.broadcast_to(np.int64(times), len(users)))

    def best(self, k: int) -> Retrieve:
        """A function from users, cuts and times to the best ``k`` items of each, exactly."""

        def retrieve(users: Int64, cuts: Int64, times: Int64) -> npt.NDArray[np.int32]:
            return top_k_products(self.embed(users, cuts, times), self.items, k).astype(np.int32)

        return retrieve


def embed_catalogue(towers: tf.Module, catalogue: Catalogue, rows: npt.NDArray[np.int32] | None = None) -> Float32:
    """Candidate embeddings [items, dim] in the catalogue's order.

    Args:
        towers: a loaded ``TowersExport``.
        catalogue: the items.
        rows: [items] by which row the towers know each, their catalogue's size = not at all; without it, by its own.
    """
    known = np.arange(len(catalogue)) if rows is None else rows
    every = np.arange(len(catalogue))
    blocks = [every[start : start + BLOCK] for start in range(0, len(every), BLOCK)]
    return np.concatenate(
        [
            np.asarray(
                towers.candidate(
                    {
                        "item_id": tf.constant(known[block], tf.int64),
                        **{name: tf.constant(table[block]) for name, table in catalogue.features.items()},
                    }
                )
            )
            for block in blocks
        ]
    )
