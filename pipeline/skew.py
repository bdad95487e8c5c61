"""``twotower skew``: what a server was asked, beside what the run was trained on."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tensorflow as tf
import tensorflow_data_validation as tfdv
import tensorflow_transform as tft
from rich import box
from rich.console import Console
from rich.table import Table

from twotower.features.errors import InputError
from twotower.features.preprocessing import ITEM_VOCABULARY, USER_VOCABULARY
from twotower.features.records import serialize
from twotower.pipeline.console import quiet
from twotower.pipeline.logged_queries import Query, queries
from twotower.pipeline.lookup import day
from twotower.pipeline.outputs import Outputs
from twotower.pipeline.prediction_logs import Logged, log_files, read_logs
from twotower.pipeline.skew_distances import (
    UNKNOWN_ITEMS,
    UNKNOWN_USERS,
    Difference,
    compared_features,
    differences,
    unknown_ids,
)
from twotower.pipeline.validation import split_statistics

SKEWED = 1
WIDTH = 120


@dataclass
class Asked:
    """What the logs hold, counted.

    Attributes:
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


def skew(logs: str, out: Path, thresholds: Sequence[str]) -> int:
    """Compare, print, and write ``out/skew.json``; returns the exit status: 0, or 1 where a threshold is passed.

    Args:
        logs: what the log files' paths begin with.
        out: the run's folder.
        thresholds: ``FEATURE=SHARE``, instead of the default ones.

    Raises:
        InputError: there is no file, record or statistic to compare, a record is broken, or a threshold.
    """
    files, run = log_files(logs), Outputs(out)
    spec = run.spec("Compose")
    chosen = _thresholds(thresholds, [*compared_features(spec), UNKNOWN_ITEMS, UNKNOWN_USERS])
    trained = run.artifact("StatisticsGen", "statistics")
    if not Path(trained.uri).is_dir():
        raise InputError(f"{trained.uri}: the statistics of the run in {out} are gone")
    vocabularies = tft.TFTransformOutput(str(run.folder("Transform", "transform_graph")))
    users, items = (frozenset(vocabularies.vocabulary_by_name(name)) for name in (USER_VOCABULARY, ITEM_VOCABULARY))
    asked = Asked(known_users=users, known_items=items)
    # TFDV computes statistics of files, as large as they may be. What it says on the way is of no use to anybody.
    with tempfile.TemporaryDirectory() as folder, quiet(Path(folder, "log")):
        examples = str(Path(folder, "queries.tfrecord"))
        with tf.io.TFRecordWriter(examples) as writer:
            for logged in read_logs(files):
                rows = queries(logged, spec)
                asked.count(logged, rows)
                for query in rows:
                    writer.write(serialize(query.record))
        if not asked.queries:
            raise InputError(f"{logs}: none of {asked.others:,} records is a request of the signature 'recommend'")
        served = tfdv.generate_statistics_from_tfrecord(examples)
        found = [
            *differences(spec, split_statistics(trained, "train"), served, chosen),
            unknown_ids(UNKNOWN_ITEMS, asked.unknown_items, asked.events, chosen),
            unknown_ids(UNKNOWN_USERS, asked.unknown_users, asked.queries, chosen),
        ]
    _show(asked, found, _console())
    result = out / "skew.json"
    result.write_text(json.dumps(_summary(files, asked, found), indent=1), encoding="utf-8")
    return 0 if all(difference.passed for difference in found) else SKEWED


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


def _summary(files: Sequence[Path], asked: Asked, found: Sequence[Difference]) -> dict[str, object]:
    return {
        "files": [str(file) for file in files],
        "requests": asked.requests,
        "queries": asked.queries,
        "users": len(asked.users),
        "other_records": asked.others,
        "versions": dict(asked.versions),
        "sampling_rates": sorted(asked.rates),
        "times": asked.times,
        "without_a_time": asked.timeless,
        "features": [asdict(difference) for difference in found],
    }


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _show(asked: Asked, found: Sequence[Difference], console: Console) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    others = f"; {asked.others:,} other records" if asked.others else ""
    say(f"{asked.requests:,} requests, {asked.queries:,} queries of {len(asked.users):,} users{others}")
    say("answered by " + ", ".join(f"{name} ({count:,})" for name, count in sorted(asked.versions.items())))
    say("sampling rate " + ", ".join(f"{rate:g}" for rate in sorted(asked.rates)))
    span = "" if asked.times is None else f"times from {day(asked.times[0])} to {day(asked.times[1])}; "
    say(f"{span}{asked.timeless:,} queries without a time")
    table = Table(title="Training and serving", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("feature", "missing: training", "serving", "distance", "", "threshold", "verdict"):
        number = heading in ("missing: training", "serving", "distance", "threshold")
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for one in found:
        shares = (one.training_missing, one.serving_missing, one.distance)
        training, serving, distance = ("-" if share is None else f"{share:.3f}" for share in shares)
        style = None if one.passed else "red"
        threshold = f"{one.threshold:g}"
        table.add_row(one.feature, training, serving, distance, one.measure, threshold, one.verdict, style=style)
    console.print(table)
    # Two standard errors of a share of one half.
    say(f"Of {asked.queries:,} queries, chance alone moves a share by up to {asked.queries**-0.5:.3f}.")
