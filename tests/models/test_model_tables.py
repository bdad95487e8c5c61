"""Users whose test period has become history."""

import numpy as np

from twotower.features.encoding import Encoding
from twotower.features.timelines import Timelines
from twotower.models.tables import Catalogue, Users

Event = tuple[int, int, int, float]  # user, item, time, quantity


def timelines(events: list[Event]) -> Timelines:
    users, items, times, quantities = np.array(events, dtype=np.float64).reshape(-1, 4).T
    return Timelines.from_events(
        users.astype(np.int64), items.astype(np.int32), times.astype(np.int64), quantities.astype(np.float32), 3
    )


def people(labels: list[Event]) -> Users:
    return Users(
        ids=np.array([b"a", b"b", b"c"], dtype=object),
        rows=np.arange(3),
        features={},
        encodings=[Encoding("context_store", "index", 4), Encoding("context_hour", "index", 25)],
        history=timelines([(0, 1, 5, 1.0), (0, 2, 6, 2.0), (2, 3, 7, 3.0)]),
        context={"context_store": np.array([0, 1, 2])},
        labels=timelines(labels),
    )


def test_labels_follow_each_user_s_own_history() -> None:
    joined = people([(0, 4, 10, 4.0), (1, 5, 11, 5.0), (1, 6, 12, 6.0)]).with_labels_as_history()
    assert joined.history.offsets.tolist() == [0, 3, 5, 6]
    assert joined.history.items.tolist() == [1, 2, 4, 5, 6, 3]
    assert joined.history.times.tolist() == [5, 6, 10, 11, 12, 7]
    assert joined.history.quantities.tolist() == [1, 2, 4, 5, 6, 3]
    # A request does not know its own context yet, so what follows the split has none.
    assert joined.context["context_store"].tolist() == [0, 1, 3, 3, 3, 2]
    assert joined.labels.lengths.tolist() == [0, 0, 0]


def test_labels_before_1970_do_not_stay_labels() -> None:
    users = people([])
    old = timelines([(1, 4, -10, 1.0)])
    joined = Users(
        users.ids, users.rows, {}, users.encodings, users.history, users.context, old
    ).with_labels_as_history()
    assert joined.history.times.tolist() == [5, 6, -10, 7]
    assert joined.labels.lengths.tolist() == [0, 0, 0]


def test_lengths() -> None:
    assert len(people([])) == 3
    assert len(Catalogue(np.array([b"x", b"y"], dtype=object), {}, [])) == 2
