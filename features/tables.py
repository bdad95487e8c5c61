"""Reading a table's files as Arrow chunks: CSV, Parquet or TFRecord of ``tf.train.Example``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from twotower.features.columns import Chunk
from twotower.features.errors import InputError

ROWS_A_CHUNK = 262_144


def read_chunks(file: Path, file_format: str, columns: Sequence[str]) -> Iterator[Chunk]:
    """The file's rows, ``ROWS_A_CHUNK`` at a time, with these columns only.

    Raises:
        InputError: the file is not of that format, or a column is missing.
    """
    columns = list(dict.fromkeys(columns))
    first = 1
    try:
        for table in _READERS[file_format](file, columns):
            yield Chunk(file, np.arange(first, first + table.num_rows), table)
            first += table.num_rows
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise InputError(f"{file}: cannot be read as {file_format}: {' '.join(str(error).split())}") from None


def check_columns(file: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    """Raise an ``InputError`` that names the first missing column and the nearest one there is."""
    for column in wanted:
        if column not in present:
            near = difflib.get_close_matches(column, present, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"the columns are {', '.join(map(str, present))}"
            raise InputError(f"{file}: no column '{column}': {hint}")


def _read_parquet(file: Path, columns: list[str]) -> Iterator[pa.Table]:
    with pa.parquet.ParquetFile(file) as source:
        check_columns(file, columns, source.schema_arrow.names)
        for batch in source.iter_batches(ROWS_A_CHUNK, columns=columns):
            yield pa.Table.from_batches([batch])


def _read_csv(file: Path, columns: list[str]) -> Iterator[pa.Table]:
    with pa.csv.open_csv(file) as probe:
        names = probe.schema.names
    check_columns(file, columns, names)
    # Everything is read as text: a guessed type would turn the id 007 into 7.
    options = pa.csv.ConvertOptions(
        include_columns=columns, column_types={name: pa.string() for name in columns}, strings_can_be_null=True
    )
    with pa.csv.open_csv(file, convert_options=options, read_options=pa.csv.ReadOptions(block_size=1 << 25)) as source:
        for batch in source:
            yield pa.Table.from_batches([batch])


def _read_tfrecord(file: Path, columns: list[str]) -> Iterator[pa.Table]:
    # Imported here: reading CSV and Parquet needs no TensorFlow.
    import tensorflow as tf
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    compression = "GZIP" if file.suffix == ".gz" else ""
    decoder = ExamplesToRecordBatchDecoder()
    try:
        for records in tf.data.TFRecordDataset(str(file), compression).batch(ROWS_A_CHUNK // 8):
            batch = decoder.DecodeBatch(records.numpy().tolist())
            check_columns(file, columns, batch.schema.names)
            yield pa.table(
                {name: _scalars(file, name, batch.column(batch.schema.names.index(name))) for name in columns}
            )
    except (tf.errors.DataLossError, tf.errors.FailedPreconditionError) as error:
        raise InputError(f"{file}: cannot be read as tfrecord: {error.message}") from None


def _scalars(file: Path, name: str, column: pa.Array) -> pa.Array:
    """Lists of at most one value as that value; longer ones stay lists."""
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    rows = [row if row is not None else [] for row in column.to_pylist()]
    if any(isinstance(value, bytes) for row in rows for value in row):
        try:
            rows = [[value.decode() for value in row] for row in rows]
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: column '{name}': found bytes that are not UTF-8 text: {error}") from None
    if all(len(row) <= 1 for row in rows):
        return pa.array([row[0] if row else None for row in rows])
    return pa.array(rows)


_READERS = {"parquet": _read_parquet, "csv": _read_csv, "tfrecord": _read_tfrecord}
