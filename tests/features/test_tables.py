"""The same table as CSV, Parquet and TFRecord gives the same rows; a file that does not fit is named."""

import csv
import gzip
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features import records, tables
from twotower.features.errors import InputError
from twotower.features.spec import Source, Spec

Row = dict[str, Any]

SPEC = Spec.model_validate(
    {
        "name": "shop",
        "interactions": {
            "path": "events",
            "user": "user",
            "item": "item",
            "time": "time",
            "quantity": "amount",
            "drop": [
                {"column": "amount", "missing": True, "reason": "no amount"},
                {"column": "amount", "below": 0, "reason": "negative"},
            ],
        },
        "items": {
            "path": "items",
            "id": "item",
            "describe": ["label", "item"],
            "features": {
                "label": {"kind": "category"},
                "words": {"kind": "text", "column": "label"},
                "amount": {"kind": "number"},
                "tags": {"kind": "sequence", "separator": "|", "max_length": 3},
                "listed": {"kind": "time", "part": "month", "column": "time"},
            },
        },
        "context": {"label": {"kind": "category"}},
        "split": {"test_from": "2017-12-01"},
    }
)
COLUMNS = ["user", "item", "time", "amount", "label", "tags"]


def write_csv(file: Path, rows: Sequence[Row]) -> None:
    flat = [{**row, "tags": "|".join(row["tags"])} for row in rows]
    with (gzip.open if file.suffix == ".gz" else open)(file, "wt", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(flat)


def write_parquet(file: Path, rows: Sequence[Row]) -> None:
    kinds = {"time": pa.int64(), "amount": pa.float64(), "tags": pa.list_(pa.string())}
    pq.write_table(
        pa.table({name: pa.array([row[name] for row in rows], kinds.get(name, pa.string())) for name in COLUMNS}), file
    )


def write_tfrecord(file: Path, rows: Sequence[Row]) -> None:
    compression = "GZIP" if file.suffix == ".gz" else None
    with tf.io.TFRecordWriter(str(file), compression) as writer:
        for row in rows:
            lists = {name: value if isinstance(value, list) else [value] for name, value in row.items()}
            present = {name: [x for x in values if x is not None] for name, values in lists.items()}
            writer.write(
                records.serialize(
                    {
                        name: [x.encode() if isinstance(x, str) else x for x in values]
                        for name, values in present.items()
                    }
                )
            )


WRITERS = {
    "t.csv": write_csv,
    "t.csv.gz": write_csv,
    "t.parquet": write_parquet,
    "t.tfrecord": write_tfrecord,
    "t.tfrecord.gz": write_tfrecord,
}


def cleaned(source: Source) -> tuple[object, ...]:
    """What ingest makes of the files: events by user, what was dropped, and the items table."""
    assert SPEC.items is not None
    events: list[tuple[object, ...]] = []
    dropped: dict[str, int] = {}
    items = []
    for file in source.files():
        for chunk in tables.read_chunks(file, source.file_format(file), COLUMNS):
            grouped, counts = records.events_by_user(chunk, SPEC)
            for user, part in grouped.items():
                values = (part.items, part.times, part.quantities, part.context["label"])
                events += zip([user] * len(part), *(value.tolist() for value in values), strict=True)
            dropped = {reason: dropped.get(reason, 0) + count for reason, count in counts.items()}
            for name, record, text in records.entity_rows(chunk, "item", SPEC.items):
                items.append((name, records.serialize(record), text))
    return sorted(events), dropped, items


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6)
ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=4) | st.sampled_from(
    ["007", "7", "NA", "null", "nan", "1.0", "\u4e2d\u6587", "a,b", 'q"', " x "]
)
rows_of_a_table = st.lists(
    st.fixed_dictionaries(
        {
            "user": ids,
            "item": ids,
            "time": st.integers(150_000_000, 1_600_000_000),
            "amount": st.none() | st.floats(-2, 1e6, width=32),
            "label": text.map(lambda value: value or None) | st.sampled_from(["NA", "null", "#N/A", "line\nbreak"]),
            "tags": st.lists(st.text("ab\u00e9 1", min_size=1).map(str.strip).filter(bool), max_size=4),
        }
    ),
    max_size=6,
)
COMPLETE: Row = {"user": "u", "item": "i", "time": 1_500_000_000, "amount": 1.0, "label": "l", "tags": ["a", "b"]}


@settings(max_examples=25, deadline=None)
@given(rows_of_a_table)
def test_every_format_gives_the_same_events_and_records(rows: list[Row]) -> None:
    rows = [*rows, COMPLETE]
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, write in WRITERS.items():
            write(Path(folder, name), rows)
            found[name] = cleaned(Source(path=str(Path(folder, name))))
    for name in WRITERS:
        assert found[name] == found["t.parquet"], name


@pytest.mark.parametrize("name", WRITERS)
def test_a_glob_of_files_is_one_table(name: str, tmp_path: Path) -> None:
    rows = [COMPLETE | {"item": f"i{number}", "time": 1_500_000_000 + number} for number in range(7)]
    WRITERS[name](tmp_path / name, rows)
    for part in range(3):
        (tmp_path / "parts").mkdir(exist_ok=True)
        WRITERS[name](tmp_path / "parts" / f"{part}-{name}", rows[part * 3 : part * 3 + 3])
    assert cleaned(Source(path=str(tmp_path / "parts" / "*"))) == cleaned(Source(path=str(tmp_path / name)))


@pytest.mark.parametrize("name", WRITERS)
def test_rows_are_numbered_from_one_across_chunks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    WRITERS[name](tmp_path / name, [COMPLETE] * 20)
    monkeypatch.setattr(tables, "ROWS_A_CHUNK", 8)
    source = Source(path=str(tmp_path / name))
    chunks = list(tables.read_chunks(tmp_path / name, source.file_format(tmp_path / name), ["user"]))
    assert [row for chunk in chunks for row in chunk.rows.tolist()] == list(range(1, 21))
    if name.startswith("t.csv"):
        return  # CSV is cut by bytes
    assert len(chunks) > 1


@pytest.mark.parametrize("name", WRITERS)
def test_column_asked_for_twice_is_read_once(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, [COMPLETE])
    kind = Source(path=name).file_format(Path(name))
    (chunk,) = tables.read_chunks(tmp_path / name, kind, ["item", "user", "item"])
    assert chunk.table.column_names == ["item", "user"]


@pytest.mark.parametrize("name", WRITERS)
def test_missing_column_is_named_with_the_nearest_one(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name, [COMPLETE])
    kind = Source(path=name).file_format(Path(name))
    with pytest.raises(InputError) as caught:
        list(tables.read_chunks(tmp_path / name, kind, ["user", "itm"]))
    assert str(caught.value) == f"{tmp_path / name}: no column 'itm': did you mean 'item'?"
    with pytest.raises(InputError, match=r"no column 'zzzz': the columns are .*user") as caught:
        list(tables.read_chunks(tmp_path / name, kind, ["zzzz"]))


@pytest.mark.parametrize("kind", ["csv", "parquet", "tfrecord"])
def test_file_that_is_not_there(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"none: (cannot be read as {kind}|no such file)"):
        list(tables.read_chunks(tmp_path / "none", kind, ["user"]))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("csv", b""),
        ("csv", b"user,item\n1,2,3\n"),
        ("csv", b"user,item\n\xff,2\n"),
        ("parquet", b""),
        ("parquet", b"user,item\n1,2\n"),
        ("tfrecord", b"user,item\n1,2\n" * 10),
    ],
)
def test_file_of_another_format(kind: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(InputError, match=rf"/t: cannot be read as {kind}: ") as caught:
        list(tables.read_chunks(tmp_path / "t", kind, ["user"]))
    assert "\n" not in str(caught.value)


def test_tfrecord_that_is_cut_off_or_not_what_its_ending_says(tmp_path: Path) -> None:
    write_tfrecord(tmp_path / "t.tfrecord", [COMPLETE] * 3)
    whole = (tmp_path / "t.tfrecord").read_bytes()
    (tmp_path / "cut.tfrecord").write_bytes(whole[:-5])
    (tmp_path / "plain.tfrecord.gz").write_bytes(whole)
    (tmp_path / "packed.tfrecord").write_bytes(gzip.compress(whole))
    with tf.io.TFRecordWriter(str(tmp_path / "other.tfrecord")) as writer:
        writer.write(b"no tf.train.Example")
    for name in ("cut.tfrecord", "plain.tfrecord.gz", "packed.tfrecord", "other.tfrecord"):
        with pytest.raises(InputError, match=rf"/{name}: cannot be read as tfrecord: "):
            list(tables.read_chunks(tmp_path / name, "tfrecord", ["user"]))


def test_tfrecord_bytes_that_are_no_text(tmp_path: Path) -> None:
    with tf.io.TFRecordWriter(str(tmp_path / "t.tfrecord")) as writer:
        writer.write(records.serialize({"user": [b"\xff"]}))
    with pytest.raises(InputError, match=r"t\.tfrecord: column 'user': found bytes that are not UTF-8 text"):
        list(tables.read_chunks(tmp_path / "t.tfrecord", "tfrecord", ["user"]))


def test_tfrecord_feature_that_a_batch_lacks_is_missing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_A_CHUNK", 8)  # one example a batch
    write_tfrecord(tmp_path / "t.tfrecord", [COMPLETE | {"label": None}, COMPLETE])
    chunks = list(tables.read_chunks(tmp_path / "t.tfrecord", "tfrecord", ["label", "user"]))
    assert [chunk.column("label").to_pylist() for chunk in chunks] == [[None], [["l"]]]


@pytest.mark.parametrize(
    ("name", "content"),
    [("t.csv", b"user,item\n"), ("t.tfrecord", b""), ("t.tfrecord.gz", gzip.compress(b"", mtime=0))],
)
def test_table_without_rows(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    kind = Source(path=name).file_format(Path(name))
    assert [len(chunk) for chunk in tables.read_chunks(tmp_path / name, kind, ["user"])] == []


def test_csv_header_without_rows_is_still_checked(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("user,item\n")
    with pytest.raises(InputError, match="no column 'users': did you mean 'user'"):
        list(tables.read_chunks(tmp_path / "t.csv", "csv", ["users"]))


def test_csv_keeps_text_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b'\xef\xbb\xbfid,x\r\n007,"two\nlines"\r\n"",NA\r\n1.0,\r\n')
    (chunk,) = tables.read_chunks(tmp_path / "t.csv", "csv", ["id", "x"])
    assert chunk.table.to_pydict() == {"id": ["007", None, "1.0"], "x": ["two\nlines", "NA", None]}
    assert chunk.rows.tolist() == [1, 2, 3]
