"""The dates of a rolling split: counted back from the newest event, never from the clock of the machine."""

from __future__ import annotations

import datetime as dt

from twotower.features import columns
from twotower.features.continuous import RollingSplit
from twotower.features.errors import InputError
from twotower.features.spec import Interactions, Spec, TimeSplit
from twotower.features.tables import read_chunks

DAY = 86_400


def resolved(spec: Spec) -> Spec:
    """The spec with the dates of its rolling split; any other one as it is.

    The test ends with the UTC day of the newest event that no drop rule takes out.

    Raises:
        InputError: a file cannot be read, or no event is left.
    """
    rolling = spec.split
    if not isinstance(rolling, RollingSplit):
        return spec
    end = (newest_event(spec.interactions) // DAY + 1) * DAY
    start = end - rolling.test_days * DAY
    train = None if rolling.train_days is None else _moment(start - rolling.train_days * DAY)
    split = TimeSplit(test_from=_moment(start), test_days=rolling.test_days, train_from=train)
    return spec.model_copy(update={"split": split})


def described(split: TimeSplit) -> str:
    """What is trained on and what is tested, in days."""
    start = f"{split.test_from:%Y-%m-%d}"
    days = "" if split.test_days is None else f", {split.test_days} days"
    trained = "before" if split.train_from is None else f"from {split.train_from:%Y-%m-%d} to before"
    return f"trained on events {trained} {start}, tested from {start} on{days}"


def newest_event(source: Interactions) -> int:
    """Unix seconds of the newest event; errors as of ``resolved``."""
    wanted = [source.time, *(rule.column for rule in source.drop)]
    newest = None
    for file in source.files():
        for chunk in read_chunks(file, source.file_format(file), wanted):
            kept, _ = columns.apply_drops(chunk, source.drop)
            if len(kept):
                newest = max(newest or 0, int(columns.seconds(kept, source.time, source.time_format).max()))
    if newest is None:
        raise InputError(f"{source.path}: no interaction is left to count the days of the split back from")
    return newest


def _moment(seconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)
