"""The units of a batch job: some users each, from the histories of a run or from a table of ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from twotower.features import columns
from twotower.features.errors import InputError
from twotower.features.spec import Source, Spec
from twotower.features.tables import read_chunks

# Users of a unit. What a killed job does again is at most this, a worker.
UNIT = 1024


@dataclass(frozen=True)
class Unit:
    """Users of one output file.

    Attributes:
        number: of the unit, from 0 on.
        file: Parquet file of histories; "" for users of whom no history is known.
        row_group: of the file.
        rows: of the row group.
        ids: of the users without a history.
    """

    number: int
    file: str = ""
    row_group: int = 0
    rows: npt.NDArray[np.int32] | None = None
    ids: tuple[str, ...] = ()

    def users(self) -> list[Mapping[str, Any]]:
        """Rows of the histories: user_id, features (JSON), item_ids, times."""
        if not self.file:
            return [{"user_id": user, "features": "{}", "item_ids": [], "times": []} for user in self.ids]
        with pq.ParquetFile(self.file) as file:
            found: list[Mapping[str, Any]] = file.read_row_group(self.row_group).take(self.rows).to_pylist()
            return found


def units(histories: Sequence[Path], wanted: Sequence[str] | None) -> list[Unit]:
    """Units over all users of the histories, or over the wanted ones, each once; the same for the same input."""
    parts: list[dict[str, Any]] = []
    left = None if wanted is None else dict.fromkeys(wanted)
    for path in histories:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["user_id"])["user_id"].to_pylist()
                rows: Sequence[int] = range(len(ids))
                if left is not None:
                    rows = [row for row in rows if ids[row] in left]
                    for row in rows:
                        del left[ids[row]]
                parts += [
                    {"file": str(path), "row_group": group, "rows": np.array(some, np.int32)} for some in _cut(rows)
                ]
    parts += [{"ids": tuple(some)} for some in _cut(list(left or ()))]
    return [Unit(number, **part) for number, part in enumerate(parts)]


def wanted_users(path: str, spec: Spec) -> list[str]:
    """The ids in a table's column of user ids, called as in the spec's users table, or else as in its interactions.

    Raises:
        InputError: there is no such file or column, an id is missing, or there is none.
    """
    column = spec.users.id if spec.users is not None else spec.interactions.user
    table = Source(path=path)
    found: list[str] = []
    for file in table.files():
        for chunk in read_chunks(file, table.file_format(file), [column]):
            found += columns.ids(chunk, column).to_pylist()
    if not found:
        raise InputError(f"{path}: found no user, expected at least one in the column '{column}'")
    return found


def _cut(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (rows[start : start + UNIT] for start in range(0, len(rows), UNIT))
