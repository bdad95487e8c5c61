"""Ingest: the raw tables to examples, on Beam over Arrow chunks.

One example a user, with the whole timeline: 1.5 million purchases are 2,500 examples, and no history is
stored twice. Rows are grouped by user inside each chunk, so that Beam shuffles a few arrays a user. Nothing of
TFX is imported here: every worker process of Beam would spend its first half minute on that.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindows

from twotower.features import columns, records
from twotower.features.errors import InputError
from twotower.features.holdout import Span, divide, known_rows
from twotower.features.promotions import promotion_columns, promotion_record, promotions_by_item
from twotower.features.records import Events, Record
from twotower.features.spec import (
    EntityTable,
    GivenSplit,
    LastOutSplit,
    Promotions,
    SequenceFeature,
    Source,
    Spec,
    TimeSplit,
    VectorFeature,
)
from twotower.features.tables import read_chunks
from twotower.pipeline.file_states import file_states

SPLITS = ("train", "eval", "items")


def fingerprint(spec: Spec) -> str:
    """Names, sizes and modification times of the spec's files: what makes the cache run ingest again."""
    return json.dumps(file_states(file for _, file in spec.files), sort_keys=True)


def run(spec: Spec, examples: Path, lookup: Path, pipeline: beam.Pipeline) -> dict[str, int]:
    """Run the Beam pipeline; returns the counts of rows read, dropped and written, by label.

    Raises:
        InputError: a table is missing or bad, or nothing is left to train on or to test on.
    """
    files = pipeline | "InteractionFiles" >> beam.Create(_files(spec.interactions)) | "SpreadFiles" >> beam.Reshuffle()
    test = spec.test_interactions
    test_files = pipeline | "TestFiles" >> beam.Create(_files(test) if test is not None else [])
    read, given = (
        some | f"{name}Events" >> beam.ParDo(_ReadEvents(spec)).with_outputs("counts", main="events")
        for name, some in (("", files), ("Test", test_files))
    )
    spans = pipeline | "NoSpans" >> beam.Create([])
    if isinstance(spec.split, LastOutSplit):
        spans = read.events | "Spans" >> beam.MapTuple(_span) | "WidestSpans" >> beam.CombinePerKey(_widest)
    derive = beam.ParDo(_ReadDerived(spec), beam.pvalue.AsDict(spans))
    derived = files | "DerivedTables" >> derive.with_outputs("user", "item")
    users, user_counts = _entities(pipeline, "user", spec.users, derived.user)
    items, item_counts = _entities(pipeline, "item", spec.items, derived.item)
    timelines = (
        {"events": read.events, "test": given.events, "features": users}
        | "JoinUsers" >> beam.CoGroupByKey()
        | "Timelines"
        >> beam.ParDo(_Timelines(spec)).with_outputs("counts", "eval", "histories", "bought", main="train")
    )
    bought = timelines.bought | "DistinctBought" >> beam.Distinct() | "AsKeys" >> beam.Map(_as_key)
    promotions, promotion_counts = _promotions(pipeline, spec.promotions)
    catalogue = (
        {"features": items, "bought": bought, "promotions": promotions}
        | "JoinItems" >> beam.CoGroupByKey()
        | "Catalogue" >> beam.ParDo(_Catalogue(spec)).with_outputs("counts", "descriptions", main="items")
    )
    for split, collection in zip(SPLITS, (timelines.train, timelines.eval, catalogue.items), strict=True):
        _ = collection | f"Write_{split}" >> beam.io.WriteToTFRecord(
            str(examples / f"Split-{split}" / "examples"), file_name_suffix=".tfrecord.gz"
        )
    _ = timelines.histories | "WriteHistories" >> beam.io.WriteToParquet(str(lookup / "histories"), HISTORY_SCHEMA)
    _ = catalogue.descriptions | "WriteItems" >> beam.io.WriteToParquet(str(lookup / "items"), ITEM_SCHEMA)
    # Beam's result names the file; the counts of all stages are few.
    _ = (
        (read.counts, given.counts, user_counts, item_counts, promotion_counts, timelines.counts, catalogue.counts)
        | "Counts" >> beam.Flatten()
        | "SumCounts" >> beam.CombinePerKey(sum)
        | "CountsAsJson" >> beam.Map(json.dumps)
        | "WriteCounts" >> beam.io.WriteToText(str(examples / "counts"), shard_name_template="")
    )
    there = {path for folder in (examples, lookup) if folder.is_dir() for path in folder.iterdir()}
    try:
        pipeline.run().wait_until_finish()
        lines = (examples / "counts").read_text(encoding="utf-8").splitlines()
        (examples / "counts").unlink()
        counts = {label: int(value) for label, value in map(json.loads, lines)}
        _check(spec, counts)
    except Exception as error:
        _remove({path for folder in (examples, lookup) if folder.is_dir() for path in folder.iterdir()} - there)
        found = _input_error(error)
        if found is None:
            raise
        raise found from None
    return counts


HISTORY_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("features", pa.string()),  # JSON: a request's ``user_*`` inputs
        ("item_ids", pa.list_(pa.string())),
        ("times", pa.list_(pa.int64())),
    ]
)
ITEM_SCHEMA = pa.schema([("item_id", pa.string()), ("description", pa.string())])


class _Counting(beam.DoFn):
    """Counts by label on the side output ``counts``: one number a bundle, as an element costs Beam more than a sum."""

    def start_bundle(self) -> None:
        """Forget what the last bundle counted."""
        self._counts: Counter[str] = Counter()

    def finish_bundle(self) -> Iterator[Any]:
        """Pass the counts on."""
        for count in self._counts.items():
            yield beam.pvalue.TaggedOutput("counts", GlobalWindows.windowed_value(count))


class _ReadEvents(_Counting):
    """A file to (user, events) a chunk and user; side output: counts."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def process(self, file: str) -> Iterator[Any]:
        spec = self._spec
        source = spec.interactions
        wanted = records.interaction_columns(source, spec.context)
        for chunk in read_chunks(Path(file), source.file_format(Path(file)), wanted):
            self._counts["interactions: rows read"] += len(chunk)
            grouped, dropped = records.events_by_user(chunk, spec)
            for reason, count in dropped.items():
                self._counts[f"dropped: {reason}"] += count
            yield from grouped.items()


class _ReadDerived(beam.DoFn):
    """A file of the interactions to newest rows of the user and item tables that come from them, tagged by table."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._tables = {
            prefix: table
            for prefix, table in (("user", spec.users), ("item", spec.items))
            if table is not None and table.from_ is not None
        }

    def process(self, file: str, spans: Mapping[bytes, Span]) -> Iterator[Any]:
        if not self._tables:
            return
        source = self._spec.interactions
        wanted = [source.user, source.time, *(rule.column for rule in source.drop)]
        for table in self._tables.values():
            wanted += records.entity_columns(table)
        for chunk in read_chunks(Path(file), source.file_format(Path(file)), wanted):
            kept, _ = columns.apply_drops(chunk, source.drop)
            if not len(kept):
                continue
            times = columns.seconds(kept, source.time, source.time_format)
            # Only what is trained on describes a user or an item.
            users = [user.encode() for user in columns.ids(kept, source.user).to_pylist()]
            known = known_rows(self._spec, users, times, spans)
            for prefix, table in self._tables.items():
                for row in records.newest_rows(kept.where(known), times[known], prefix, table).items():
                    yield beam.pvalue.TaggedOutput(prefix, row)


class _ReadEntities(_Counting):
    """A file of the users or items table to (id, (row number, record, description)); side output: counts."""

    def __init__(self, prefix: str, table: EntityTable) -> None:
        self._prefix = prefix
        self._table = table

    def process(self, file: str) -> Iterator[Any]:
        table, name = self._table, Path(file)
        for chunk in read_chunks(name, table.file_format(name), records.entity_columns(table)):
            self._counts[f"{self._prefix}s: rows read"] += len(chunk)
            kept, dropped = columns.apply_drops(chunk, table.drop)
            for reason, count in dropped.items():
                self._counts[f"dropped {self._prefix}s: {reason}"] += count
            if len(kept):
                rows = records.entity_rows(kept, self._prefix, table)
                for (key, record, text), number in zip(rows, kept.rows.tolist(), strict=True):
                    yield key, (number, record, text, file)


class _ReadPromotions(_Counting):
    """A file of promotions to (item, promotions) a chunk and item; side output: counts."""

    def __init__(self, table: Promotions) -> None:
        self._table = table

    def process(self, file: str) -> Iterator[Any]:
        name = Path(file)
        for chunk in read_chunks(name, self._table.file_format(name), promotion_columns(self._table)):
            self._counts["promotions: rows read"] += len(chunk)
            yield from promotions_by_item(chunk, self._table).items()


class _OneRow(beam.DoFn):
    """(id, rows) to (id, row): the last one, or an error where the spec says that ids do not repeat."""

    def __init__(self, column: str, duplicates: str) -> None:
        self._column = column
        self._duplicates = duplicates

    def process(self, element: tuple[bytes, Iterable[tuple[Any, ...]]]) -> Iterator[tuple[bytes, tuple[Record, str]]]:
        name, rows = element
        ordered = list(rows)
        if len(ordered) > 1:
            ordered.sort(key=lambda row: (row[3:], records.row_order(row[:3])))
        if len(ordered) > 1 and self._duplicates == "error":
            places = " and ".join(f"row {row[0]} of {row[3]}" for row in ordered[:2])
            raise InputError(
                f"column '{self._column}': found the id {name.decode()!r} in {places}, expected each id once "
                f"(or 'duplicates: last' in the spec)"
            )
        yield name, (ordered[-1][1], ordered[-1][2])


class _Timelines(_Counting):
    """A user's events and features to a train example, and an eval example where there is something to predict."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def start_bundle(self) -> None:
        """Forget the last bundle's items; each item is passed on once a bundle, not once a user."""
        super().start_bundle()
        self._bought: set[bytes] = set()

    def process(self, element: tuple[bytes, Any]) -> Iterator[Any]:
        name, joined = element
        parts, given = list(joined["events"]), list(joined["test"])
        features = next((row[0] for row in joined["features"]), None)
        if not parts and not given:
            self._counts["users: without a purchase"] += 1
            return
        history, labels = divide(self._spec, name, parts, given)
        beyond = max(0, len(history) + len(labels) - self._spec.interactions.max_events_per_user)
        # The oldest go, and labels only where no history is left.
        history, labels = (
            history.take(slice(beyond, None)),
            labels.take(slice(max(0, beyond - len(history)), None)),
        )
        self._counts.update(
            {
                "dropped: beyond max_events_per_user": beyond,
                "users: with purchases": 1,
                "users: with a row of their own": int(features is not None),
                "interactions: train": len(history),
                "interactions: test": len(labels),
                "users: train": int(len(history) > 0),
                "users: test": int(len(labels) > 0),
            }
        )
        if len(history):
            yield records.serialize(records.timeline_record(name, features or {}, history, None))
        if len(labels):
            record = records.timeline_record(name, features or {}, history, labels)
            yield beam.pvalue.TaggedOutput("eval", records.serialize(record))
        new = set(history.items.tolist()) - self._bought
        self._bought |= new
        for item in new:
            yield beam.pvalue.TaggedOutput("bought", item)
        yield beam.pvalue.TaggedOutput(
            "histories",
            {
                "user_id": name.decode(),
                "features": json.dumps(_request_features(features or {}, self._spec)),
                "item_ids": [item.decode() for item in (*history.items.tolist(), *labels.items.tolist())],
                "times": [*history.times.tolist(), *labels.times.tolist()],
            },
        )


class _Catalogue(_Counting):
    """An item's row, or only its id where it was bought and has none, to an item example and a description."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec

    def process(self, element: tuple[bytes, Any]) -> Iterator[Any]:
        name, joined = element
        row = next(iter(joined["features"]), None)
        bought = any(True for _ in joined["bought"])
        promotions = promotion_record(joined["promotions"])
        if row is None and not bought:
            self._counts["promotions: items that are not in the catalogue"] += 1
            return
        record, text = row if row is not None else ({}, "")
        yield records.serialize({"item_id": [name], **record, **promotions})
        yield beam.pvalue.TaggedOutput("descriptions", {"item_id": name.decode(), "description": text})
        self._counts["items: catalogue"] += 1
        self._counts["items: bought in train"] += int(bought)
        self._counts["items: bought, without a row of their own"] += int(row is None)


def _entities(
    pipeline: beam.Pipeline, prefix: str, table: EntityTable | None, derived: beam.PCollection
) -> tuple[beam.PCollection, beam.PCollection]:
    """(id, (record, description)) of a users or items table, and its counts."""
    rows, counts = derived, pipeline | f"NoCounts_{prefix}s" >> beam.Create([])
    if table is not None and table.path is not None:
        read = (
            pipeline
            | f"Files_{prefix}s" >> beam.Create(_files(table))
            | f"Read_{prefix}s" >> beam.ParDo(_ReadEntities(prefix, table)).with_outputs("counts", main="rows")
        )
        rows, counts = read.rows, read.counts
    duplicates = table.duplicates if table is not None else "last"
    column = table.id if table is not None else ""
    one = rows | f"Group_{prefix}s" >> beam.GroupByKey() | f"One_{prefix}s" >> beam.ParDo(_OneRow(column, duplicates))
    return one, counts


def _promotions(pipeline: beam.Pipeline, table: Promotions | None) -> tuple[beam.PCollection, beam.PCollection]:
    """(item, promotions) and their counts; none without a table."""
    if table is None:
        return tuple(pipeline | f"No{name}" >> beam.Create([]) for name in ("Promotions", "PromotionCounts"))
    read = (
        pipeline
        | "PromotionFiles" >> beam.Create(_files(table))
        | "ReadPromotions" >> beam.ParDo(_ReadPromotions(table)).with_outputs("counts", main="rows")
    )
    return read.rows, read.counts


def _request_features(record: Record, spec: Spec) -> dict[str, Any]:
    """A user's raw features as a request names them: without the prefix, and single values not in lists."""
    found: dict[str, Any] = {}
    for name, feature in spec.user_features.items():
        values = [value.decode() if isinstance(value, bytes) else value for value in record.get(f"user_{name}", ())]
        if isinstance(feature, SequenceFeature | VectorFeature):
            found[name] = values
        elif values:
            found[name] = values[0]
    return found


def _span(user: bytes, events: Events) -> tuple[bytes, Span]:
    return user, (int(events.times.min()), int(events.times.max()))


def _widest(spans: Iterable[Span]) -> Span:
    found = list(spans)
    return min(first for first, _ in found), max(last for _, last in found)


def _files(source: Source) -> list[str]:
    return [str(file) for file in source.files()]


def _as_key(item: bytes) -> tuple[bytes, int]:
    return item, 1


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _input_error(error: Exception) -> InputError | None:
    """The input error that Beam passes on: with its step's name behind it, or as text in a worker's traceback."""
    text = str(error)
    if not isinstance(error, InputError):
        raised = re.findall(rf"^{re.escape(InputError.__module__)}\.InputError: (.*)$", text, re.MULTILINE)
        if not raised:
            return None
        text = raised[-1]
    return InputError(re.sub(r" \[while running '.*", "", text, flags=re.DOTALL))


def _check(spec: Spec, counts: Mapping[str, int]) -> None:
    """Refuse a run that has nothing to train on or to test on."""
    train = test = spec.interactions.path
    before, after = "", " at a user's last moment of several"
    if isinstance(spec.split, TimeSplit):
        start = spec.split.test_from.isoformat()
        before, after = f" before {start}", f" from {start} on"
    elif isinstance(spec.split, GivenSplit):
        test, after = spec.split.test, ""
    dropped = ", ".join(
        f"{count} {label.removeprefix('dropped: ')}"
        for label, count in sorted(counts.items())
        if label.startswith("dropped: ") and count
    )
    read = f"{counts.get('interactions: rows read', 0)} rows read, dropped: {dropped or 'none'}"
    if not counts.get("interactions: train"):
        raise InputError(f"{train}: no interaction is left{before} to train on ({read})")
    if not counts.get("interactions: test"):
        raise InputError(f"{test}: no interaction is left{after} to test on ({read})")
