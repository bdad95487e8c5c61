"""The model server's request logs, read back: TFRecords of TensorFlow Serving's ``PredictionLog``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from twotower.features.errors import InputError


@dataclass(frozen=True)
class Logged:
    """One record, and where it stands.

    Attributes:
        file: the file.
        number: of the record in it, from 1.
        log: the record.
    """

    file: Path
    number: int
    log: prediction_log_pb2.PredictionLog

    def fault(self, found: str) -> InputError:
        """The error that names this record."""
        return _fault(self.file, self.number, found)


def log_files(prefix: str) -> list[Path]:
    """The files whose path begins with ``prefix``, or all of a folder, in the order of their names.

    Files that are still written (``.NAME.partial``) are left out, as everything hidden is.

    Raises:
        InputError: there are none.
    """
    folder, name = (prefix, "") if Path(prefix).is_dir() else os.path.split(prefix)
    entries = Path(folder).iterdir() if Path(folder).is_dir() else ()
    found = sorted(
        entry for entry in entries if entry.name.startswith(name) and not entry.name.startswith(".") and entry.is_file()
    )
    if not found:
        raise InputError(f"{prefix}: no file is called that or begins with it; expected a server's filename_prefix")
    return found


def read_logs(files: list[Path]) -> Iterator[Logged]:
    """The records of the files, one after the other.

    Raises:
        InputError: a record is broken; it names file and record.
    """
    for file in files:
        number = 0
        try:
            for number, record in enumerate(tf.data.TFRecordDataset(str(file)).as_numpy_iterator(), start=1):
                yield Logged(file, number, prediction_log_pb2.PredictionLog.FromString(record))
        except DecodeError:
            raise _fault(file, number, "no PredictionLog") from None
        except tf.errors.DataLossError:
            # The reader meets it on the way to the record after the last good one.
            raise _fault(file, number + 1, "not as it was written (damaged, or cut off)") from None


def _fault(file: Path, number: int, found: str) -> InputError:
    return InputError(f"{file}: record {number}: {found}")
