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
    read = pa.csv.ReadOptions(block_size=1 << 25)
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    with pa.csv.open_csv(file, read_options=read, parse_options=parse) as probe:
        names = probe.schema.names
    check_columns(file, columns, names)
    # Everything is read as text: a guessed type would turn the id 007 into 7, and the country NA into nothing.
    convert = pa.csv.ConvertOptions(
        include_columns=columns,
        column_types={name: pa.string() for name in columns},
        strings_can_be_null=True,
        null_values=[""],
    )
    with pa.csv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert) as source:
        for batch in source:
            yield pa.Table.from_batches([batch])


def _read_tfrecord(file: Path, columns: list[str]) -> Iterator[pa.Table]:
    # Imported here: reading CSV and Parquet needs no TensorFlow.
    import tensorflow as tf
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    compression = "GZIP" if file.suffix == ".gz" else ""
    decoder = ExamplesToRecordBatchDecoder()
    seen: set[str] = set()
    try:
        for records in tf.data.TFRecordDataset(str(file), compression).batch(ROWS_A_CHUNK // 8):
            batch = decoder.DecodeBatch(records.numpy().tolist())
            seen.update(batch.schema.names)
            yield pa.table({name: _texts(file, name, batch) for name in columns})
    except (tf.errors.OpError, RuntimeError) as error:  # RuntimeError: the record is no example
        message = str(error).split("}} ")[-1].split(" [Op:")[0]  # without TensorFlow's name for the operation
        raise InputError(f"{file}: cannot be read as tfrecord: {message}") from None
    # A batch may lack a feature that few examples have; a whole file that lacks it is a mistake.
    if seen:
        check_columns(file, columns, sorted(seen))


def _texts(file: Path, name: str, batch: pa.RecordBatch) -> pa.Array:
    """One feature of a batch of examples as lists, bytes as text; nulls where no example has it."""
    if name not in batch.schema.names:
        return pa.nulls(batch.num_rows)
    column = batch.column(batch.schema.names.index(name))
    kind = getattr(column.type, "value_type", column.type)
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return column
    try:
        return column.cast(pa.large_list(pa.string()) if pa.types.is_large_list(column.type) else pa.list_(pa.string()))
    except pa.ArrowInvalid:
        raise InputError(f"{file}: column '{name}': found bytes that are not UTF-8 text, expected text") from None


_READERS = {"parquet": _read_parquet, "csv": _read_csv, "tfrecord": _read_tfrecord}
