"""What of a user's events is known and what the test asks for, as the spec's ``split`` says."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from twotower.features.errors import InputError
from twotower.features.records import Events
from twotower.features.spec import GivenSplit, Spec, TimeSplit

# A user's first and last moment, unix seconds.
Span = tuple[int, int]


def divide(spec: Spec, user: bytes, events: Sequence[Events], given: Sequence[Events]) -> tuple[Events, Events]:
    """One user's history, and the labels that come strictly after it.

    Args:
        spec: the split.
        user: the user's id.
        events: parts of the interactions, in no order.
        given: parts of the table that is the test; without events where the split has no such table.

    Raises:
        InputError: an event of the given test is known, or does not lie after what is.
    """
    if isinstance(spec.split, GivenSplit):
        nothing = [part.take(slice(0)) for part in (*events, *given)]
        history, labels = Events.merged([*events, *nothing]), Events.merged([*given, *nothing])
        _refuse_leakage(spec, user, history, labels)
        return history, labels
    whole = Events.merged(events)
    if isinstance(spec.split, TimeSplit):
        start = spec.split.start
    else:
        start = last_out_start((int(whole.times[0]), int(whole.times[-1])))
    known = int(np.searchsorted(whole.times, start))
    return whole.take(slice(None, known)), whole.take(slice(known, None))


def last_out_start(span: Span) -> int:
    """The moment that a user's test begins at: their last one, or never where it is the first one too."""
    first, last = span
    return last if first < last else np.iinfo(np.int64).max


def known_rows(
    spec: Spec, users: Sequence[bytes], times: npt.NDArray[np.int64], spans: Mapping[bytes, Span]
) -> npt.NDArray[np.bool_]:
    """[n] which rows of the interactions are trained on.

    Args:
        spec: the split.
        users: [n] whose they are.
        times: [n] unix seconds.
        spans: each user's, where the split leaves the last moment out.
    """
    if isinstance(spec.split, TimeSplit):
        before = times < spec.split.start
        return before if spec.split.train_start is None else before & (times >= spec.split.train_start)
    if isinstance(spec.split, GivenSplit):
        return np.ones(len(times), dtype=bool)
    return times < np.array([last_out_start(spans[user]) for user in users], dtype=np.int64)


def _refuse_leakage(spec: Spec, user: bytes, history: Events, labels: Events) -> None:
    if not len(history) or not len(labels) or history.times[-1] < labels.times[0]:
        return
    assert isinstance(spec.split, GivenSplit)
    known = set(zip(history.items.tolist(), history.times.tolist(), strict=True))
    found = list(zip(labels.items.tolist(), labels.times.tolist(), strict=True))
    item, time = next((event for event in found if event in known), found[0])
    what = f"{spec.split.test}: user {user.decode()!r}, item {item.decode()!r} at {_text(time)}"
    if (item, time) in known:
        raise InputError(f"{what}: stands in {spec.interactions.path} as well, expected no event in both")
    raise InputError(
        f"{what}: the user's last event in {spec.interactions.path} is at {_text(int(history.times[-1]))}, "
        "expected the test strictly after it"
    )


def _text(time: int) -> str:
    return dt.datetime.fromtimestamp(time, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
