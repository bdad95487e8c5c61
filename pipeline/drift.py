"""DriftValidator: this run's data beside the last blessed run's, and beside what a server was asked since."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import Artifact, standard_artifacts

from twotower.features.continuous import Drift
from twotower.features.errors import InputError
from twotower.features.preprocessing import raw_type
from twotower.features.spec import Spec
from twotower.pipeline.artifacts import Summary
from twotower.pipeline.file_states import file_states
from twotower.pipeline.prediction_logs import log_files
from twotower.pipeline.skew_comparison import compare_logs
from twotower.pipeline.skew_distances import Difference, Statistics, compared_features, distances, with_lengths
from twotower.pipeline.validation import split_statistics

progress = logging.getLogger("twotower.progress")

FILE = "drift.json"
SINCE_LAST, SERVING = "since the last blessed run", "in the serving logs"


class Both(NamedTuple):
    """A run's statistics of the users and of the items."""

    train: Statistics
    items: Statistics


def logs_fingerprint(drift: Drift) -> str:
    """Names, sizes and times of the serving logs there are: what makes the cache run the step again."""
    return json.dumps(file_states(_files(drift)), sort_keys=True)


@component
def DriftValidator(  # noqa: N802 (named as TFX names its steps)
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    drift: OutputArtifact[Summary],
    spec: Parameter[str],
    logs: Parameter[str],
    last: InputArtifact[standard_artifacts.ExampleStatistics] = None,
) -> None:
    """Compare, say what passes its threshold, and write all of it down; CheckServable reads whether that stops a push.

    Raises:
        InputError: a log file is bad.
    """
    del logs  # only there for the cache
    whole = Spec.model_validate_json(spec)
    now, before = (None if one is None else _both(one) for one in (statistics, last))
    assert whole.drift is not None
    assert now is not None
    found = compare(whole, whole.drift, now, before, Path(transform_graph.uri))
    faults = [
        f"drift {where}: {one.feature}: {said(one)}" for where, some in found.items() for one in some if not one.passed
    ]
    for fault in faults:
        progress.info(fault)
    written = {
        "stops": faults if whole.drift.on_drift == "stop" else [],
        "found": {where: [asdict(one) for one in some] for where, some in found.items()},
    }
    Path(drift.uri, FILE).write_text(json.dumps(written, indent=1), encoding="utf-8")


def compare(spec: Spec, drift: Drift, now: Both, before: Both | None, graph: Path) -> dict[str, list[Difference]]:
    """This run beside the last blessed one, and beside the serving logs; what there is not yet is said.

    Args:
        spec: with the retrieval and the ranking section.
        drift: the thresholds, and where the logs are.
        now, before: both runs' statistics.
        graph: folder of Transform's ``transform_graph``.

    Raises:
        InputError: a log file is bad.
    """
    found = {}
    if before is None:
        progress.info("drift: no earlier run is blessed yet")
    else:
        found[SINCE_LAST] = differences(spec, drift, before, now)
    files = _files(drift)
    if files:
        thresholds = {**dict.fromkeys(compared_features(spec), drift.threshold), **drift.thresholds}
        _, found[SERVING] = compare_logs(files, spec, now.train, graph, thresholds)
    elif drift.serving_logs is not None:
        progress.info(f"skew: no serving log begins with {drift.serving_logs} yet")
    return found


def differences(spec: Spec, drift: Drift, before: Both, now: Both) -> list[Difference]:
    """What changed in the users' and in the items' examples."""
    longest = max(spec.ranking.history_length, spec.retrieval.history_length)
    users = {**compared_features(spec), "history_quantity": tf.float32}
    items = {f"item_{name}": raw_type(feature) for name, feature in spec.item_features.items()}
    known = drift.thresholds
    return [
        *distances(
            users, with_lengths(before.train, longest), with_lengths(now.train, longest), known, drift.threshold
        ),
        *(distances(items, before.items, now.items, known, drift.threshold) if items else ()),
    ]


def read(folder: Path) -> dict[str, list[Difference]]:
    """What ``DriftValidator`` compared, by what with."""
    written = json.loads((folder / FILE).read_text(encoding="utf-8"))["found"]
    return {where: [Difference(**one) for one in some] for where, some in written.items()}


def stops(folder: Path) -> list[str]:
    """A sentence for each difference that stops a push."""
    found: list[str] = json.loads((folder / FILE).read_text(encoding="utf-8"))["stops"]
    return found


def said(one: Difference) -> str:
    """What is wrong with a feature, in numbers."""
    distance = "" if one.distance is None else f", {one.measure} {one.distance:.3f}"
    shares = (one.training_missing, one.serving_missing)
    missing = "" if None in shares else f", missing {shares[0]:.3f} and now {shares[1]:.3f}"
    return f"{one.verdict}{distance}{missing} (limit {one.threshold:g})"


def _both(artifact: Artifact) -> Both:
    return Both(split_statistics(artifact, "train"), split_statistics(artifact, "items"))


def _files(drift: Drift) -> list[Path]:
    """The serving logs; none before a server wrote any."""
    if drift.serving_logs is None:
        return []
    try:
        return log_files(drift.serving_logs)
    except InputError:
        return []
