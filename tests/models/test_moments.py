"""When training ends and when users ask, under each kind of split."""

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from twotower.features.spec import Split
from twotower.features.timelines import Timelines
from twotower.models.moments import request_times, training_end

IN_TIME = {"kind": "time", "test_from": "1970-01-01T00:01:00Z"}
OWN = [{"kind": "leave_last_out"}, {"kind": "given", "test": "t.csv"}]


def split(raw: dict[str, Any]) -> Split:
    found: Split = TypeAdapter(Split).validate_python(raw)
    return found


def events(*found: tuple[int, int], n_users: int = 2) -> Timelines:
    """Of (user, time)."""
    users, times = np.array(found, dtype=np.int64).reshape(-1, 2).T
    ones = np.ones(len(users), np.float32)
    return Timelines.from_events(users, np.zeros(len(users), np.int32), times, ones, n_users)


def test_a_split_in_time_has_one_moment() -> None:
    assert training_end(split(IN_TIME), events((0, 5))) == 60
    assert request_times(split(IN_TIME), events((0, 70), (1, 90))).tolist() == [60, 60]


@pytest.mark.parametrize("raw", OWN, ids=lambda raw: raw["kind"])
def test_otherwise_the_data_have_the_moments(raw: dict[str, str]) -> None:
    assert training_end(split(raw), events((0, 90), (1, 5))) == 91
    assert request_times(split(raw), events((1, 90), (1, 70), (0, 20))).tolist() == [20, 70]


@pytest.mark.parametrize("raw", OWN, ids=lambda raw: raw["kind"])
def test_without_events_there_is_no_moment(raw: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="train: found no event, expected at least one"):
        training_end(split(raw), events())
    with pytest.raises(ValueError, match="labels: user row 1 has none, expected at least one of each asked user"):
        request_times(split(raw), events((0, 3)))
