"""The items as the shop gave them: from a run's raw examples, or from the items table as it is now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features import columns, records
from twotower.features.errors import InputError
from twotower.features.records import Record
from twotower.features.spec import Items, NumberFeature, Spec
from twotower.features.tables import read_chunks

Raw = Mapping[str, npt.NDArray[np.generic]]


def of_run(folder: Path) -> dict[bytes, Record]:
    """Raw features by item id, from the examples of a run's ``items`` split in ``folder``."""
    files = sorted(str(file) for file in folder.glob("*"))
    found: dict[bytes, Record] = {}
    for serialized in tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator():
        values = tf.train.Example.FromString(serialized).features.feature
        kinds = {name: getattr(feature, feature.WhichOneof("kind")).value for name, feature in values.items()}
        record: Record = {name: list(value) for name, value in kinds.items()}
        found[record["item_id"][0]] = record  # type: ignore[index]
    return found


def of_table(table: Items) -> dict[bytes, Record]:
    """Raw features by item id, from the files of the items table.

    Raises:
        InputError: a file is missing or bad, an id stands there twice where the spec does not allow it, or none does.
    """
    rows: dict[bytes, Record] = {}
    for file in table.files():
        for name, record in _rows(table, file):
            if name in rows and table.duplicates == "error":
                raise InputError(
                    f"{file}: column '{table.id}': found the id {name.decode()!r} twice, expected each id once "
                    f"(or 'duplicates: last' in the spec)"
                )
            rows[name] = {"item_id": [name], **record}
    if not rows:
        raise InputError(f"{table.path}: expected at least one item, found none")
    return rows


def attributes(spec: Spec, items: Sequence[Record]) -> Raw:
    """[items] what the rules read of them, by feature: labels as bytes, empty = missing; numbers, NaN = missing."""
    found: dict[str, npt.NDArray[np.generic]] = {}
    for name in spec.serving.rules.features:
        number = isinstance(spec.item_features[name], NumberFeature)
        missing = [np.nan] if number else [b""]
        values = [(record.get(f"item_{name}") or missing)[0] for record in items]
        found[name] = np.array(values, np.float32 if number else object)
    return found


def _rows(table: Items, file: Path) -> Iterator[tuple[bytes, Record]]:
    for chunk in read_chunks(file, table.file_format(file), records.entity_columns(table)):
        kept, _ = columns.apply_drops(chunk, table.drop)
        if len(kept):
            yield from ((name, record) for name, record, _ in records.entity_rows(kept, "item", table))
