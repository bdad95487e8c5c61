"""A rolling split: its days are counted back from the newest event that is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twotower.features.errors import InputError
from twotower.features.holdout import known_rows
from twotower.features.records import events_by_user
from twotower.features.spec import Spec, TimeSplit, load
from twotower.features.tables import read_chunks
from twotower.features.window import DAY, described, resolved

SPEC = """
name: shop
interactions:
  path: "*.csv"
  user: u
  item: i
  time: t
  drop: [{column: i, equals: [test], reason: tests}]
split: {kind: rolling, test_days: 2, train_days: 3}
"""
# The newest event that counts is on the tenth; its day is the last one of the test.
ROWS = [
    "a,x,2024-01-05T23:59:59",
    "a,x,2024-01-06",
    "a,y,2024-01-08T23:59:59",
    "b,y,2024-01-09",
    "b,x,2024-01-10T00:00:01",
]


def spec_of(folder: Path, rows: list[str], **changed: Any) -> Spec:
    for number, row in enumerate(rows):
        (folder / f"{number}.csv").write_text(f"u,i,t\n{row}\n")
    (folder / "spec.yaml").write_text(SPEC)
    spec = load(folder / "spec.yaml")
    return spec.model_copy(update=changed)


def test_the_dates_by_hand(tmp_path: Path) -> None:
    split = resolved(spec_of(tmp_path, [*ROWS, "c,test,2024-03-01"])).split
    assert isinstance(split, TimeSplit)
    dates = [split.train_from, split.test_from]
    assert [date.isoformat() for date in dates if date] == ["2024-01-06T00:00:00+00:00", "2024-01-09T00:00:00+00:00"]
    assert split.end == split.start + 2 * DAY
    assert (
        described(split) == "trained on events from 2024-01-06 to before 2024-01-09, tested from 2024-01-09 on, 2 days"
    )


def test_a_newer_event_moves_the_window_and_nothing_else_does(tmp_path: Path) -> None:
    before = resolved(spec_of(tmp_path, ROWS))
    again = resolved(spec_of(tmp_path, [*ROWS, "c,y,2024-01-10T23:59:59"]))
    later = resolved(spec_of(tmp_path, [*ROWS, "c,y,2024-01-11"]))
    assert before == again
    assert isinstance(before.split, TimeSplit)
    assert isinstance(later.split, TimeSplit)
    assert later.split.start == before.split.start + DAY
    # The dates survive the JSON that the steps are given.
    assert Spec.model_validate_json(later.model_dump_json(by_alias=True)) == later


def test_what_is_before_the_window_is_dropped_and_counted(tmp_path: Path) -> None:
    spec = resolved(spec_of(tmp_path, ROWS))
    kept, dropped = [], 0
    for file in spec.interactions.files():
        for chunk in read_chunks(file, "csv", ["u", "i", "t"]):
            found, counts = events_by_user(chunk, spec)
            dropped += counts["before the training window"]
            kept += [(user, events.items.tolist()) for user, events in found.items()]
    assert dropped == 1
    assert kept == [(b"a", [b"x"]), (b"a", [b"y"]), (b"b", [b"y"]), (b"b", [b"x"])]
    assert isinstance(spec.split, TimeSplit)
    assert spec.split.train_start is not None
    times = np.array([spec.split.train_start - 1, spec.split.train_start, spec.split.start - 1, spec.split.start])
    assert known_rows(spec, [b"a"] * 4, times, {}).tolist() == [False, True, True, False]


def test_any_other_split_stays(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, ROWS, split=TimeSplit.model_validate({"test_from": "2024-01-09"}))
    assert resolved(spec) is spec


def test_no_event_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no interaction is left to count the days of the split back from"):
        resolved(spec_of(tmp_path, ["c,test,2024-03-01"]))


def test_a_window_that_ends_before_it_begins() -> None:
    with pytest.raises(ValueError, match="train_from: expected a time before test_from"):
        TimeSplit.model_validate({"test_from": "2024-01-09", "train_from": "2024-01-09"})
