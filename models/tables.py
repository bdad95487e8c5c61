"""What the models read: the transformed catalogue and users as dense tables, and the timelines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from twotower.features.encoding import Encoding
from twotower.features.promotions import Promotions
from twotower.features.timelines import Timelines

Table = Mapping[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Catalogue:
    """Every item once, in vocabulary order.

    Attributes:
        ids: [n] the items' own ids.
        features: each encoding's rows, [n] or [n, width].
        encodings: what ``features`` holds.
        promotions: of the items, where the spec has a table of them.
    """

    ids: npt.NDArray[np.object_]
    features: Table
    encodings: Sequence[Encoding]
    promotions: Promotions | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def labels(self) -> list[Encoding]:
        """The encodings that put items into groups: one label an item, and no bucket of a number."""
        return [e for e in self.encodings if e.form == "index" and not e.name.endswith("_bucket")]


@dataclass(frozen=True)
class Users:
    """Users with their features and timelines; row u of each belongs together.

    Attributes:
        ids: [n] the users' own ids.
        rows: [n] rows of the user vocabulary (its size = unknown).
        features: each encoding's rows, [n] or [n, width].
        encodings: what ``features`` and ``context`` hold, in that order.
        history: the events before the split.
        context: for each context encoding that is a column, [events] values along ``history``.
        labels: the events from the split on; no events for training users.
    """

    ids: npt.NDArray[np.object_]
    rows: npt.NDArray[np.int64]
    features: Table
    encodings: Sequence[Encoding]
    history: Timelines
    context: Table
    labels: Timelines

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, users: npt.NDArray[np.int64]) -> Users:
        """The users at the given places, in that order."""
        events = self.history.events_of(users)
        return Users(
            ids=self.ids[users],
            rows=self.rows[users],
            features={name: values[users] for name, values in self.features.items()},
            encodings=self.encodings,
            history=self.history.select(users),
            context={name: values[events] for name, values in self.context.items()},
            labels=self.labels.select(users),
        )

    def with_labels_as_history(self) -> Users:
        """The same users with the labels appended to their histories: what happened, for building past lists."""
        history, labels = self.history, self.labels
        users = np.concatenate([history.users, labels.users])
        order = np.argsort(users, kind="stable")
        joined = Timelines(
            history.offsets + labels.offsets,
            np.concatenate([history.items, labels.items])[order],
            np.concatenate([history.times, labels.times])[order],
            np.concatenate([history.quantities, labels.quantities])[order],
        )
        # The labels' context is not kept: it is what a request would not know either.
        unknown = {e.name: e.size - 1 for e in self.encodings}
        context = {
            name: np.concatenate([values, np.full(len(labels.items), unknown[name], values.dtype)])[order]
            for name, values in self.context.items()
        }
        return replace(self, history=joined, context=context, labels=labels.latest(0))
