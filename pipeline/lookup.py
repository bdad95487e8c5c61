"""What people look up beside the models: a user's history and features, and what an item is."""

from __future__ import annotations

import datetime as dt
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.dataset

from twotower.features.errors import InputError


def lookup_folder(out: Path) -> Path:
    """Where the run in ``out`` has its lookup tables.

    Raises:
        InputError: no run was completed there.
    """
    folder = out / "lookup"
    if not folder.is_dir():
        raise InputError(f"{out}: no complete run is there (no lookup/); expected the folder of 'twotower run --out'")
    return folder


@dataclass(frozen=True)
class Customer:
    """A user as a request needs it.

    Attributes:
        user_id: the id.
        features: the users table's values by feature name.
        items: ids of the history, oldest first; times: unix seconds of each.
    """

    user_id: str
    features: Mapping[str, str | int | float | list[str] | list[float]]
    items: list[str]
    times: list[int]


class People:
    """The lookup tables that ingest wrote into ``folder``."""

    @classmethod
    def of_run(cls, out: Path) -> People:
        """The tables of the run in ``out``.

        Raises:
            InputError: no run was completed there.
        """
        return cls(lookup_folder(out))

    def __init__(self, folder: Path) -> None:
        self._histories = pyarrow.dataset.dataset(sorted(folder.glob("histories*")), format="parquet")
        self._items = pyarrow.dataset.dataset(sorted(folder.glob("items*")), format="parquet")

    def customer(self, user_id: str) -> Customer | None:
        """The user, or None where nothing is known of them."""
        found = self.customers([user_id])
        return found[0] if found else None

    def customers(self, user_ids: Iterable[str]) -> list[Customer]:
        """The known users among these, in no order."""
        wanted = pyarrow.dataset.field("user_id").isin(list(user_ids))
        return [
            Customer(row["user_id"], json.loads(row["features"]), row["item_ids"], row["times"])
            for row in self._histories.to_table(filter=wanted).to_pylist()
        ]

    def descriptions(self, item_ids: Iterable[str]) -> dict[str, str]:
        """What each known item is, by id."""
        wanted = pyarrow.dataset.field("item_id").isin(list(set(item_ids)))
        return {row["item_id"]: row["description"] for row in self._items.to_table(filter=wanted).to_pylist()}

    def known_item(self, item_id: str) -> str:
        """The item's description.

        Raises:
            InputError: no such item, with the nearest known id.
        """
        found = self.descriptions([item_id])
        if item_id in found:
            return found[item_id]
        known = self._items.to_table(columns=["item_id"])["item_id"].to_pylist()
        near = difflib.get_close_matches(item_id, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise InputError(f"item '{item_id}': not in the catalogue of {len(known):,} items{hint}")


def day(time: int) -> str:
    """The date of unix seconds, UTC."""
    return dt.datetime.fromtimestamp(time, dt.UTC).strftime("%Y-%m-%d")
