"""Cleaned rows to raw ``tf.train.Example``s: what ingest emits and a request looks like.

Feature names and types are those of ``preprocessing.raw_feature_types``; a missing value is an absent feature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features import columns, spec
from twotower.features.columns import Chunk
from twotower.features.spec import EntityTable, Feature, Interactions, Spec

Values = Sequence[bytes] | Sequence[int] | Sequence[float]
Record = dict[str, Values]


@dataclass(frozen=True)
class Events:
    """One user's events out of one chunk, or all of them, in no order.

    Attributes:
        items: [n] ids as UTF-8 bytes.
        times: [n] unix seconds.
        quantities: [n] how many.
        context: for each context column, [n] labels as UTF-8 bytes.
    """

    items: npt.NDArray[np.bytes_]
    times: npt.NDArray[np.int64]
    quantities: npt.NDArray[np.float32]
    context: Mapping[str, npt.NDArray[np.bytes_]]

    def __len__(self) -> int:
        return len(self.items)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickled as bytes: Beam shuffles little else, and arrays of a few events would be mostly headers."""
        context = {name: _packed(values) for name, values in self.context.items()}
        return _unpickled, (_packed(self.items), self.times.tobytes(), self.quantities.tobytes(), context)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> Events:
        """These rows of the events."""
        context = {name: values[rows] for name, values in self.context.items()}
        return Events(self.items[rows], self.times[rows], self.quantities[rows], context)

    @classmethod
    def merged(cls, parts: Sequence[Events]) -> Events:
        """All parts in time order; ties in the order of their values, so that the order of arrival does not matter."""
        names = parts[0].context
        joined = cls(
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.quantities for part in parts]),
            {name: np.concatenate([part.context[name] for part in parts]) for name in names},
        )
        return joined.take(np.lexsort((*joined.context.values(), joined.quantities, joined.items, joined.times)))


def _packed(labels: npt.NDArray[np.bytes_]) -> tuple[str, bytes]:
    return labels.dtype.str, labels.tobytes()


def _unpickled(
    items: tuple[str, bytes], times: bytes, quantities: bytes, context: Mapping[str, tuple[str, bytes]]
) -> Events:
    return Events(
        np.frombuffer(items[1], items[0]),
        np.frombuffer(times, np.int64),
        np.frombuffer(quantities, np.float32),
        {name: np.frombuffer(values, kind) for name, (kind, values) in context.items()},
    )


def interaction_columns(interactions: Interactions, context: Mapping[str, Feature]) -> list[str]:
    """The columns of the interactions that ``events_by_user`` reads."""
    needed = [interactions.user, interactions.item, interactions.time, *(rule.column for rule in interactions.drop)]
    if interactions.quantity:
        needed.append(interactions.quantity)
    return needed + [feature.column or name for name, feature in context_columns(context).items()]


def context_columns(context: Mapping[str, Feature]) -> dict[str, Feature]:
    """The context features that are columns; time features come from the event's own time."""
    return {name: feature for name, feature in context.items() if not isinstance(feature, spec.TimeFeature)}


def events_by_user(chunk: Chunk, whole: Spec) -> tuple[dict[bytes, Events], dict[str, int]]:
    """Clean one chunk of interactions and group it by user; also the dropped rows by reason.

    Raises:
        InputError: an id, time or quantity does not fit, naming its row.
    """
    source = whole.interactions
    chunk, dropped = columns.apply_drops(chunk, source.drop)
    if not len(chunk):
        return {}, dropped
    users = ids_as_bytes(chunk, source.user)
    times = columns.seconds(chunk, source.time, source.time_format)
    quantities = np.ones(len(chunk), dtype=np.float32)
    if source.quantity:
        values = columns.numbers(chunk, source.quantity)
        chunk.refuse(np.isnan(values), source.quantity, "a number (a drop rule can leave such rows out)")
        quantities = values.astype(np.float32)
    events = Events(
        ids_as_bytes(chunk, source.item),
        times,
        quantities,
        {
            name: _encoded(columns.strings(chunk, feature.column or name).to_pylist())
            for name, feature in context_columns(whole.context).items()
        },
    )
    if isinstance(whole.split, spec.TimeSplit) and whole.split.end is not None:
        late = times >= whole.split.end
        dropped["after the test period"] = int(late.sum())
        events, users = events.take(np.flatnonzero(~late)), users[~late]
    if isinstance(whole.split, spec.TimeSplit) and whole.split.train_start is not None:
        early = events.times < whole.split.train_start
        dropped["before the training window"] = int(early.sum())
        events, users = events.take(np.flatnonzero(~early)), users[~early]
    order = np.argsort(users, kind="stable")
    names, starts = np.unique(users[order], return_index=True)
    bounds = [*starts.tolist(), len(order)]
    grouped = {name: events.take(order[bounds[i] : bounds[i + 1]]) for i, name in enumerate(names.tolist())}
    return grouped, dropped


def entity_columns(table: EntityTable) -> list[str]:
    """The columns that ``entity_rows`` reads, and those of the table's rules."""
    features = [feature.column or name for name, feature in table.features.items()]
    return [table.id, *table.describe, *features, *(rule.column for rule in table.drop)]


def entity_rows(chunk: Chunk, prefix: str, table: EntityTable) -> list[tuple[bytes, Record, str]]:
    """The rows of a users or items table as (id, raw features, description).

    A description is what a person reads: the ``describe`` columns, joined.

    Raises:
        InputError: an id is empty, or a value does not fit its feature's kind, naming its row.
    """
    names = [name.encode() for name in columns.ids(chunk, table.id).to_pylist()]
    values = {f"{prefix}_{name}": raw_values(chunk, name, feature) for name, feature in table.features.items()}
    texts = [columns.strings(chunk, column).to_pylist() for column in table.describe]
    return [
        (
            name,
            {key: rows[index] for key, rows in values.items() if len(rows[index])},
            ", ".join(text[index] for text in texts if text[index]),
        )
        for index, name in enumerate(names)
    ]


def newest_rows(
    chunk: Chunk, times: npt.NDArray[np.int64], prefix: str, table: EntityTable
) -> dict[bytes, tuple[int, Record, str]]:
    """The newest row of each id of a users or items table that comes from the interactions.

    Args:
        chunk: cleaned interactions.
        times: [n] their unix seconds.
        prefix: ``user`` or ``item``.
        table: the table.

    Returns:
        (time, raw features, description) by id. Of rows of one moment the greatest by ``row_order``.
    """
    codes = columns.ids(chunk, table.id).dictionary_encode().indices.to_numpy()
    latest = np.zeros(codes.max(initial=-1) + 1, dtype=np.int64)
    # Ascending by time, so that an id's last assignment is its newest moment.
    order = np.argsort(times, kind="stable")
    latest[codes[order]] = times[order]
    newest = times == latest[codes]
    found: dict[bytes, tuple[int, Record, str]] = {}
    rows = entity_rows(chunk.where(newest), prefix, table)
    for (name, record, text), time in zip(rows, times[newest].tolist(), strict=True):
        row = (time, record, text)
        if name not in found or (row != found[name] and row_order(row) > row_order(found[name])):
            found[name] = row
    return found


def row_order(row: tuple[int, Record, str]) -> tuple[int, bytes, str]:
    """Sorts rows of one id by time (or row number), and rows of one moment by what they say."""
    return row[0], serialize(row[1]), row[2]


def raw_values(chunk: Chunk, name: str, feature: Feature) -> Sequence[Values]:
    """One feature's values of every row of the chunk; a missing one is empty."""
    column = feature.column or name
    match feature:
        case spec.CategoryFeature() | spec.TextFeature():
            return [[text.encode()] if text else [] for text in columns.strings(chunk, column).to_pylist()]
        case spec.NumberFeature():
            return [[] if math.isnan(x) else [x] for x in columns.numbers(chunk, column).tolist()]
        case spec.SequenceFeature():
            rows = columns.labels(chunk, column, feature.separator)
            return [[label.encode() for label in row[: feature.max_length]] for row in rows]
        case spec.VectorFeature():
            return columns.vectors(chunk, column, feature.size)
        case spec.TimeFeature():
            return [[second] for second in columns.seconds(chunk, column).tolist()]


def timeline_record(user: bytes, features: Record, history: Events, labels: Events | None) -> Record:
    """A user with a history, and for the eval split the labels."""
    record: Record = {
        "user_id": [user],
        **features,
        "history_item_id": history.items.tolist(),
        "history_time": history.times.tolist(),
        "history_quantity": history.quantities.tolist(),
        **{f"context_{name}": values.tolist() for name, values in history.context.items()},
    }
    if labels is not None:
        record |= {
            "label_item_id": labels.items.tolist(),
            "label_time": labels.times.tolist(),
            "label_quantity": labels.quantities.tolist(),
        }
    return record


def serialize(record: Record) -> bytes:
    """A raw record as a serialised ``tf.train.Example``."""
    features = tf.train.Features(feature={name: _feature(values) for name, values in record.items() if len(values)})
    serialized: bytes = tf.train.Example(features=features).SerializeToString(deterministic=True)
    return serialized


def _feature(values: Values) -> tf.train.Feature:
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def ids_as_bytes(chunk: Chunk, column: str) -> npt.NDArray[np.bytes_]:
    """[n] a column of ids as UTF-8 bytes; errors as ``columns.ids``."""
    return _encoded(columns.ids(chunk, column).to_pylist())


def _encoded(texts: Sequence[str]) -> npt.NDArray[np.bytes_]:
    return np.array([text.encode() for text in texts], dtype=np.bytes_)
