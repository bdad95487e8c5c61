"""Batch recommendation: a Beam job that asks a pushed version for many users' lists, and writes them as Parquet.

``DIR`` holds a file a unit, ``lists-00000-of-00042.parquet``, each renamed into place when it is whole, so that a job
that was killed goes on with the units that have none; and ``batch.json``, which says what the lists are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.utils import shared

from twotower.features.errors import InputError
from twotower.pipeline import servable_calls
from twotower.pipeline.batch_units import Unit, units
from twotower.pipeline.file_states import file_states
from twotower.pipeline.pushed import Pushed
from twotower.serving import servable

progress = logging.getLogger("twotower.progress")

MANIFEST = "batch.json"
# Beyond this a batch's tables leave the processor's caches.
BATCH = 32
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_ids", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("model_version", pa.int64()),
    ]
)
SIGNATURE = "recommend"


def recommend_all(
    model: Pushed, histories: Sequence[Path], wanted: Sequence[str] | None, k: int, out: Path, pipeline: beam.Pipeline
) -> dict[str, int]:
    """Write the lists of all users of the histories, or of the wanted ones; returns counts.

    A user without a history is asked for like somebody new. Requests have no time, as those of ``twotower recommend``.

    Args:
        model: what is asked.
        histories: Parquet files of ``Lookup``.
        wanted: user ids, or None for everybody.
        k: length of the lists; one is shorter where fewer items can be recommended.
        out: folder of the lists; one that a job of the same input left is gone on with.
        pipeline: that runs the job. Its workers must see the files by the same paths.

    Returns:
        ``users``, ``items`` in their lists, ``short`` lists, ``files``, and how many of these were ``there`` before.

    Raises:
        InputError: there is no user, k does not fit, or ``out`` holds lists of something else.
    """
    if k < 1:
        raise InputError(f"k: found {k}, expected at least 1")
    work = units(histories, wanted)
    if not work:
        raise InputError(f"{histories[0].parent}: found no user to make a list for")
    manifest = {
        "model": model.models[0].parent.name,
        "model_version": model.version,
        "k": k,
        "files": len(work),
        "users": sum(len(unit.ids if unit.rows is None else unit.rows) for unit in work),
        "histories": file_states(histories),
        "wanted": None if wanted is None else hashlib.sha256("\n".join(wanted).encode()).hexdigest(),
    }
    _claim(out, manifest)
    names = {unit.number: f"lists-{unit.number:05d}-of-{len(work):05d}.parquet" for unit in work}
    for partial in out.glob(".*.partial"):
        partial.unlink()
    missing = [unit for unit in work if not (out / names[unit.number]).exists()]
    progress.info(f"{manifest['users']:,} users in {len(work):,} files, {len(work) - len(missing):,} of them there")
    if missing:
        write = _WriteLists(tuple(map(str, model.models)), model.version, k, str(out), names)
        _ = pipeline | "Units" >> beam.Create(missing) | "Spread" >> beam.Reshuffle() | "Lists" >> beam.ParDo(write)
        pipeline.run().wait_until_finish()
    footers = [pq.read_metadata(out / name).metadata for name in names.values()]
    found = [json.loads(footer[b"counts"]) for footer in footers]
    counts = {label: sum(each[label] for each in found) for label in found[0]}
    counts |= {"files": len(work), "there": len(work) - len(missing)}
    _write_json(out / MANIFEST, {**manifest, "complete": True, "counts": counts})
    return counts


class _WriteLists(beam.DoFn):
    """A unit to its file; one model a process."""

    def __init__(self, models: Sequence[str], version: int, k: int, out: str, names: Mapping[int, str]) -> None:
        self._folders, self._version, self._k = models, version, k
        self._out, self._names = out, names
        self._shared = shared.Shared()

    def setup(self) -> None:
        """Load the model, once a process."""
        self._models = self._shared.acquire(lambda: _Models(self._folders), tag=self._folders[0]).loaded

    def teardown(self) -> None:
        """Let go of the model: at the interpreter's end TensorFlow could not free it any more."""
        del self._models
        self._shared.acquire(_Models, tag="none")

    def process(self, unit: Unit) -> None:
        """Ask for the unit's lists, and rename its file into place."""
        table = lists(self._models, unit.users(), self._k, self._version)
        # Two workers may do the same unit: each has its own partial file, and either may be the one that stays.
        final = Path(self._out, self._names[unit.number])
        partial = final.with_name(f".{final.name}.{uuid.uuid4().hex}.partial")
        try:
            pq.write_table(table, partial)
            partial.rename(final)
        finally:
            partial.unlink(missing_ok=True)


class _Models:
    """Loaded servables. ``Shared`` knows its objects by weak references, which a list has none of."""

    def __init__(self, folders: Sequence[str] = ()) -> None:
        self.loaded = [servable.load(Path(folder)) for folder in folders]


def lists(models: Sequence[Any], users: Sequence[Mapping[str, Any]], k: int, version: int) -> pa.Table:
    """Lists of users, rows of the histories, in their order: a table of ``SCHEMA`` with its counts as JSON metadata."""
    spec = servable_calls.inputs(models, SIGNATURE)
    # Histories of like length make batches without much padding.
    order = sorted(range(len(users)), key=lambda row: len(users[row]["times"]))
    ids: list[list[bytes]] = [[] for _ in users]
    scores: list[Any] = [[] for _ in users]
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        request = servable_calls.request(spec, [values_of(users[row]) for row in rows], k)
        found = servable_calls.call(models, SIGNATURE, request)
        names, values = found["item_ids"].numpy(), found["scores"].numpy()
        lengths = np.isfinite(values).sum(axis=1)
        for row, name, value, length in zip(rows, names, values, lengths, strict=True):
            ids[row], scores[row] = name[:length].tolist(), value[:length]
    counts = {"users": len(users), "items": sum(map(len, ids)), "short": sum(len(each) < k for each in ids)}
    arrays = [
        pa.array([user["user_id"] for user in users], pa.string()),
        pa.array(ids, pa.list_(pa.binary())).cast(pa.list_(pa.string())),
        pa.array(scores, pa.list_(pa.float32())),
        pa.array(np.full(len(users), version), pa.int64()),
    ]
    return pa.table(arrays, schema=SCHEMA.with_metadata({"counts": json.dumps(counts)}))


def values_of(user: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """A row of the histories as a request's values by input name."""
    found: dict[str, Sequence[Any]] = {
        "user_id": [user["user_id"].encode()],
        "history_item_ids": [item.encode() for item in user["item_ids"]],
        "history_times": user["times"],
    }
    for name, value in json.loads(user["features"]).items():
        values = value if isinstance(value, list) else [value]
        found[f"user_{name}"] = [each.encode() if isinstance(each, str) else each for each in values]
    return found


def _claim(out: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, unless it is there; refuse a folder that holds something else."""
    path = out / MANIFEST
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        for key, value in manifest.items():
            if there.get(key) != value:
                said = f"{key} {there.get(key)} instead of {value}" if isinstance(value, int | str) else f"other {key}"
                raise InputError(f"{out}: holds another job's lists ({said}); expected an empty folder, or this job's")
        return
    if any(out.glob("*.parquet")):
        raise InputError(f"{out}: found Parquet files but no {MANIFEST}; expected an empty folder, or one of a job")
    out.mkdir(parents=True, exist_ok=True)
    _write_json(path, manifest)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1), encoding="utf-8")
    partial.rename(path)
