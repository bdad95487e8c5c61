"""Units of a batch job: every user once, in files of the same names for the same input."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_shop import SPEC

from twotower.features.errors import InputError
from twotower.pipeline.batch_units import UNIT, units, wanted_users
from twotower.pipeline.ingest import HISTORY_SCHEMA
from twotower.pipeline.pushed import pushed


def histories(path: Path, users: list[str], row_group: int) -> Path:
    rows = [{"user_id": user, "features": "{}", "item_ids": [f"i{user}"], "times": [7]} for user in users]
    pq.write_table(pa.Table.from_pylist(rows, HISTORY_SCHEMA), path, row_group_size=row_group)
    return path


@pytest.fixture(scope="module")
def two_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("histories")
    return [
        histories(folder / "histories-0", [f"a{n}" for n in range(1500)], 1200),
        histories(folder / "histories-1", ["b0", "b1"], 1),
    ]


def test_all_users_are_in_one_unit_each(two_files: list[Path]) -> None:
    made = units(two_files, None)
    assert [unit.number for unit in made] == list(range(len(made)))
    users = [unit.users() for unit in made]
    assert [len(some) for some in users] == [UNIT, 1200 - UNIT, 300, 1, 1]
    assert [row["user_id"] for some in users for row in some] == [f"a{n}" for n in range(1500)] + ["b0", "b1"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["a0", "a7", "a1199", "a1200", "b1", "new", "newer"]), min_size=1))
def test_wanted_users_are_in_one_unit_each(two_files: list[Path], wanted: list[str]) -> None:
    rows = [row for unit in units(two_files, wanted) for row in unit.users()]
    assert sorted(row["user_id"] for row in rows) == sorted(set(wanted))
    for row in rows:
        known = not row["user_id"].startswith("new")
        assert row["item_ids"] == ([f"i{row['user_id']}"] if known else [])


def test_users_come_from_the_column_of_user_ids(tmp_path: Path) -> None:
    (tmp_path / "users.csv").write_text("town,id\nx,7\ny,8\n")
    assert wanted_users(str(tmp_path / "users.csv"), SPEC) == ["7", "8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user\n7\n", "id"),
        ("id\n", "found no user, expected at least one in the column 'id'"),
        ("id,town\n7,x\n,y\n", "row"),
    ],
)
def test_a_bad_table_of_users_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "users.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        wanted_users(str(tmp_path / "users.csv"), SPEC)
    assert "users.csv" in str(error.value)


def test_a_folder_without_a_pushed_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no pushed version"):
        pushed(tmp_path)
