"""Folders with a given train and test file, in the LightGCN format: one line a user, `user item item ...`."""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from twotower.models.protocol import EvaluationProtocol
from twotower.models.splits import given_pairs

Int64 = npt.NDArray[np.int64]


class Folder(NamedTuple):
    """Pairs of user and item rows, [pairs] each."""

    train_users: Int64
    train_items: Int64
    test_users: Int64
    test_items: Int64

    @property
    def n_users(self) -> int:
        """One more than the highest user."""
        return int(max(self.train_users.max(), self.test_users.max())) + 1

    @property
    def n_items(self) -> int:
        """One more than the highest item."""
        return int(max(self.train_items.max(), self.test_items.max())) + 1

    def protocol(self, cutoff: int) -> EvaluationProtocol:
        """Every other item ranked for every user of the test.

        Raises:
            ValueError: a pair is in both files.
        """
        pairs = self.train_users, self.train_items, self.test_users, self.test_items
        return given_pairs(*pairs, self.n_users, self.n_items, cutoff)


def read_folder(path: str | Path) -> Folder:
    """Read `train.txt` and `test.txt`, or the same with the ending `.xz`.

    Raises:
        SystemExit: a file is missing, empty, or has a line that is not whole numbers.
    """
    return Folder(*_read(Path(path), "train.txt"), *_read(Path(path), "test.txt"))


def _read(folder: Path, name: str) -> tuple[Int64, Int64]:
    found = next((file for file in (folder / name, folder / f"{name}.xz") if file.is_file()), None)
    if found is None:
        raise SystemExit(
            f"{folder / name}: no such file; expected it, or {name}.xz, with one line a user: user item item"
        )
    open_text = lzma.open if found.suffix == ".xz" else open
    users: list[int] = []
    items: list[int] = []
    with open_text(found, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                user, *bought = map(int, line.split())
            except ValueError:
                if not line.strip():
                    continue
                raise SystemExit(f"{found}:{number}: found {line.strip()[:40]!r}, expected whole numbers") from None
            users += [user] * len(bought)
            items += bought
    if not items:
        raise SystemExit(f"{found}: no pair of user and item, expected at least one")
    pairs = np.unique(np.array([users, items], dtype=np.int64), axis=1)
    if pairs.min() < 0:
        raise SystemExit(f"{found}: found {pairs.min()}, expected users and items from 0 on")
    return pairs[0], pairs[1]
