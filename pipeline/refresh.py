"""``twotower refresh``: the catalogue as it is now, served by the models of the last run; nothing is trained."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tfx.types import artifact_utils
from tfx.utils import path_utils

from twotower.features import records
from twotower.features.continuous import RollingSplit
from twotower.features.errors import InputError
from twotower.features.preprocessing import raw_feature_types
from twotower.features.records import Record
from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever, embed_catalogue
from twotower.models.moments import request_times, training_end
from twotower.models.queries import Queries
from twotower.models.ranking_fit import refreshed_tables
from twotower.models.tables import Catalogue
from twotower.models.transformed import Transformed, dense
from twotower.pipeline import blessing as blessings
from twotower.pipeline import raw_items, servable_folders, servables
from twotower.pipeline.build_index import QUERIES, build_indexes
from twotower.pipeline.check_servable import ask
from twotower.pipeline.outputs import Outputs
from twotower.pipeline.pipeline import pushed_folders
from twotower.pipeline.pusher import newest_version, push
from twotower.serving.item_ids import ItemIds

progress = logging.getLogger("twotower.progress")

# Items that are transformed at a time.
BLOCK = 8192


def refresh(spec: Spec, out: Path) -> str:
    """Embed, index, compose, check and push; returns the new version.

    Raises:
        InputError: there is no items table, no blessed run in ``out``, or a table is bad; nothing is pushed then.
        RuntimeError: a servable failed its check; nothing is pushed then either.
    """
    table = spec.items
    if table is None or table.path is None:
        raise InputError("items.path: found none, expected the table that the catalogue is refreshed from")
    outputs = Outputs(out, spec.name)
    if isinstance(spec.split, RollingSplit):
        # The days that the models were trained on, whatever is newest now.
        spec = spec.model_copy(update={"split": outputs.spec("Compose").split})
    blessed, reason = blessings.read(outputs.artifact("CheckServable", "blessing"))
    if not blessed:
        raise InputError(f"{out}: the last run was not blessed ({reason}); expected one whose models may be served")
    graph, examples = (outputs.folder("Transform", key) for key in ("transform_graph", "transformed_examples"))
    data = Transformed(spec, str(graph), str(examples))
    rows = Rows.of(data.item_ids(), raw_items.of_table(table))
    progress.info(f"{rows.n_items:,} items, {rows.n_new:,} of them new; {len(rows.ids) - rows.n_items:,} are gone")
    folders = {name: Path(folder) for name, folder in pushed_folders(spec, out).items()}
    version = max([int(time.time()), *(int(v.name) + 1 for v in map(newest_version, folders.values()) if v)])
    with tempfile.TemporaryDirectory(prefix=".refresh-", dir=out) as temporary:
        composed = Path(temporary, "composed")
        servables.save(spec, _parts(spec, data, outputs, rows, Path(temporary)), version, composed)
        _check(spec, data, outputs, composed, Path(temporary), rows.n_items)
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        return push(composed, folders)


@dataclass(frozen=True)
class Rows:
    """The refreshed catalogue's rows.

    Attributes:
        ids: [n] the items of the table, known ones first, and behind them those that are gone from it.
        n_items: how many are in the table.
        n_new: how many of those the run did not know.
        trained: [n + 1] the run's row of each, its catalogue's size = unknown, as the last one is.
        records: raw features of the items in the table.
    """

    ids: list[bytes]
    n_items: int
    n_new: int
    trained: npt.NDArray[np.int32]
    records: Sequence[Record]

    @classmethod
    def of(cls, known: npt.NDArray[np.object_], table: dict[bytes, Record]) -> Rows:
        """Rows of the items ``known`` to the run, in its order, and of those in the ``table``."""
        trained = {name: row for row, name in enumerate(known.tolist())}
        new = sorted(set(table) - set(trained))
        current = [*(name for name in trained if name in table), *new]
        ids = [*current, *(name for name in trained if name not in table)]
        rows = np.array([*(trained.get(name, len(known)) for name in ids), len(known)], np.int32)
        return cls(ids, len(current), len(new), rows, [table[name] for name in current])


def _parts(spec: Spec, data: Transformed, outputs: Outputs, rows: Rows, folder: Path) -> servables.Parts:
    retrieval, ranking = (
        path_utils.serving_model_path(outputs.artifact(f"Trainer.{name}", "model").uri)
        for name in ("retrieval", "ranking")
    )
    towers, ranker = tf.saved_model.load(retrieval), tf.saved_model.load(ranking)
    known, train = data.catalogue(), data.users("train")
    catalogue = _catalogue(spec, data, known, rows)
    current = replace(
        catalogue,
        ids=catalogue.ids[: rows.n_items],
        features={name: table[: rows.n_items] for name, table in catalogue.features.items()},
    )
    vectors = embed_catalogue(towers, current, rows.trained[: rows.n_items])
    end = training_end(spec.split, train.history)
    retriever = TowerRetriever(retrieval, known, Queries(spec, train, len(known)))
    asked = np.random.default_rng(spec.seed).permutation(len(train))[:QUERIES]
    build_indexes(spec, vectors, retriever.embed_latest(asked, end), folder / "index")
    tables = dict(getattr(ranker, "item_tables", {}))
    if tables:
        trained = {name: table.numpy() for name, table in tables.items()}
        for name, values in refreshed_tables(spec, trained, known, catalogue, rows.trained, train).items():
            tables[name].assign(values)
    file = folder / "ids"
    file.write_bytes(b"\n".join(rows.ids) + b"\n")
    return servables.Parts(
        data=data,
        towers=towers,
        ranker=ranker,
        index=folder / "index",
        ids=ItemIds(file),
        n_items=rows.n_items,
        trained_rows=rows.trained,
        # What is gone has no labels and no numbers.
        raw=raw_items.attributes(spec, [*rows.records, *({} for _ in rows.ids[rows.n_items :])]),
        reference_time=end,
    )


def _catalogue(spec: Spec, data: Transformed, known: Catalogue, rows: Rows) -> Catalogue:
    """The items in their new order: those of the table with its features, those gone with what the run knew."""
    types = {name: kind for name, kind in raw_feature_types(spec).items() if name.startswith("item_")}
    features = {name: tf.io.VarLenFeature(kind) for name, kind in types.items()}
    layer = data.output.transform_features_layer()
    parts = []
    for start in range(0, rows.n_items, BLOCK):
        serialized = [records.serialize(record) for record in rows.records[start : start + BLOCK]]
        parts.append(layer(tf.io.parse_example(serialized, features)))
    gone = rows.trained[rows.n_items : -1]
    tables = {}
    for encoding in data.item_encodings:
        columns = [tf.RaggedTensor.from_sparse(part[encoding.name]) for part in parts]
        current = dense(tf.concat(columns, axis=0), encoding)
        before = known.features[encoding.name][gone]
        if encoding.form == "indices":
            width = max(current.shape[1], before.shape[1])
            current, before = (
                np.pad(table, [(0, 0), (0, width - table.shape[1])], constant_values=-1) for table in (current, before)
            )
        tables[encoding.name] = np.concatenate([current, before])
    promotions = None
    if known.promotions is not None:
        # The run's promotions, of what is still there or has been; a row that is not is nobody's.
        place = np.full(len(known) + 1, len(rows.ids), np.int32)
        place[rows.trained[:-1]] = np.arange(len(rows.ids))
        place[len(known)] = len(rows.ids)
        promotions = replace(known.promotions, items=place[known.promotions.items])
    return Catalogue(np.array(rows.ids, object), tables, known.encodings, promotions)


def _check(spec: Spec, data: Transformed, outputs: Outputs, composed: Path, folder: Path, n_items: int) -> None:
    """Ask the test users' lists of each servable in a fresh process, where it must keep its promises."""
    asked = data.asked()
    requests = folder / "requests.npz"
    np.savez(requests, users=asked.ids.astype(np.bytes_), times=request_times(spec.split, asked.labels))
    raw = Path(artifact_utils.get_split_uri([outputs.artifact("Ingest", "examples")], "eval"))
    paths = {name: composed / name for name in servable_folders.folders(spec.serving)}
    k = min(n_items, max(spec.ranking.candidates, *spec.evaluation.cutoffs))
    for index in (spec.serving.index, servable_folders.other_kind(spec.serving)):
        progress.info(f"asking the recommender with the {index} index for {len(asked):,} users' lists")
        ask(servable_folders.asked_of(spec.serving, paths, index), raw, requests, folder / f"{index}.npz", k)
