"""A run's training statistics beside the requests in the logs: reads both, and has ``skew_distances`` compare."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft

from twotower.features.errors import InputError
from twotower.features.preprocessing import ITEM_VOCABULARY, USER_VOCABULARY
from twotower.features.records import serialize
from twotower.features.spec import Spec
from twotower.pipeline.logged_queries import Query, queries
from twotower.pipeline.outputs import Outputs
from twotower.pipeline.prediction_logs import Logged, log_files, read_logs
from twotower.pipeline.skew_distances import (
    UNKNOWN_ITEMS,
    UNKNOWN_USERS,
    Difference,
    Statistics,
    compared_features,
    differences,
    unknown_ids,
)
from twotower.pipeline.validation import split_statistics


@dataclass
class Asked:
    """What the logs hold, counted.

    Attributes:
        files: the logs.
        known_users, known_items: the model's vocabularies.
        requests, others: records of requests for lists, and of anything else.
        queries: rows of the requests, a user each.
        users: who asked.
        unknown_users: queries of somebody the model has not seen, or of nobody.
        events, unknown_items: events of the histories, and those with an item that the model has not seen.
        times: unix seconds of the earliest and of the latest query that has a time; timeless: the other queries.
        versions: requests by model and version.
        rates: the sampling rates.
    """

    files: Sequence[Path]
    known_users: frozenset[bytes]
    known_items: frozenset[bytes]
    requests: int = 0
    others: int = 0
    queries: int = 0
    users: set[bytes] = field(default_factory=set)
    unknown_users: int = 0
    events: int = 0
    unknown_items: int = 0
    times: tuple[int, int] | None = None
    timeless: int = 0
    versions: Counter[str] = field(default_factory=Counter)
    rates: set[float] = field(default_factory=set)

    @property
    def written(self) -> tuple[int, int]:
        """Unix seconds at which the first and the last file were last written; the records have no times."""
        times = [int(file.stat().st_mtime) for file in self.files]
        return min(times), max(times)

    def count(self, logged: Logged, rows: Sequence[Query]) -> None:
        """Count one record and its queries."""
        if not rows:
            self.others += 1
            return
        self.requests += 1
        about = logged.log.log_metadata
        self.versions[f"{about.model_spec.name} {about.model_spec.version.value}"] += 1
        # A float32, which prints with digits that nobody wrote.
        self.rates.add(float(f"{about.sampling_config.sampling_rate:.6g}"))
        for query in rows:
            self.queries += 1
            self.users.add(query.user_id)
            self.unknown_users += query.user_id not in self.known_users
            items = query.record["history_item_id"]
            self.events += len(items)
            self.unknown_items += sum(item not in self.known_items for item in items)
            if query.time > 0:
                first, last = self.times or (query.time, query.time)
                self.times = min(first, query.time), max(last, query.time)
            else:
                self.timeless += 1


def compare(logs: str, out: Path, thresholds: Sequence[str]) -> tuple[Asked, list[Difference]]:
    """What the logs hold, and how each feature differs; arguments and errors as of ``skew``."""
    files, run = log_files(logs), Outputs(out)
    spec = run.spec("Compose")
    chosen = _thresholds(thresholds, [*compared_features(spec), UNKNOWN_ITEMS, UNKNOWN_USERS])
    trained = run.artifact("StatisticsGen", "statistics")
    if not Path(trained.uri).is_dir():
        raise InputError(f"{trained.uri}: the statistics of the run in {out} are gone")
    graph = run.folder("Transform", "transform_graph")
    return compare_logs(files, spec, split_statistics(trained, "train"), graph, chosen)


def compare_logs(
    files: Sequence[Path], spec: Spec, trained: Statistics, graph: Path, thresholds: Mapping[str, float]
) -> tuple[Asked, list[Difference]]:
    """What the log files hold, and how each feature differs from what was trained on.

    Args:
        files: the logs.
        spec: with the retrieval and the ranking section.
        trained: statistics of ingest's train split.
        graph: folder of Transform's ``transform_graph``, whose vocabularies say what is known.
        thresholds: by feature, instead of the default ones.

    Raises:
        InputError: a record is bad, or none is a request for a list.
    """
    vocabularies = tft.TFTransformOutput(str(graph))
    users, items = (frozenset(vocabularies.vocabulary_by_name(name)) for name in (USER_VOCABULARY, ITEM_VOCABULARY))
    asked = Asked(files, known_users=users, known_items=items)
    # TFDV computes statistics of files, which may be larger than the memory.
    with tempfile.TemporaryDirectory() as folder:
        examples = str(Path(folder, "queries.tfrecord"))
        with tf.io.TFRecordWriter(examples) as writer:
            for logged in read_logs(list(files)):
                rows = queries(logged, spec)
                asked.count(logged, rows)
                for query in rows:
                    writer.write(serialize(query.record))
        if not asked.queries:
            where = files[0].parent
            raise InputError(f"{where}: none of {asked.others:,} records is a request of the signature 'recommend'")
        served = tfdv.generate_statistics_from_tfrecord(examples)
    return asked, [
        *differences(spec, trained, served, thresholds),
        unknown_ids(UNKNOWN_ITEMS, asked.unknown_items, asked.events, thresholds),
        unknown_ids(UNKNOWN_USERS, asked.unknown_users, asked.queries, thresholds),
    ]


def _thresholds(given: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    chosen = {}
    for text in given:
        name, _, value = text.partition("=")
        if name not in names:
            raise InputError(f"--threshold {text}: no such feature; expected one of {', '.join(names)}")
        try:
            chosen[name] = float(value)
        except ValueError:
            chosen[name] = -1.0
        if not 0 <= chosen[name] <= 1:
            raise InputError(f"--threshold {text}: found '{value}', expected a number from 0 to 1")
    return chosen
