"""From a run's artifacts to its report."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import resource
from collections.abc import Sequence

import numpy as np

from twotower.features.spec import Spec
from twotower.models.training import CURVE_FILE
from twotower.pipeline import blessing as blessings
from twotower.pipeline import drift
from twotower.pipeline.lookup import People, day
from twotower.pipeline.metric_tables import load_scores, metric_tables, slice_tables
from twotower.pipeline.outputs import Outputs
from twotower.pipeline.run_summary import (
    Anomaly,
    Count,
    Curve,
    Purchase,
    Recommendation,
    RunSummary,
    Step,
    UserExample,
)
from twotower.pipeline.validation import read_anomalies

PACKAGES = (
    "twotower",
    "tensorflow",
    "tf-keras",
    "tensorflow-recommenders",
    "tensorflow-serving-api",
    "scann",
    "tfx",
    "apache-beam",
    "tensorflow-transform",
    "tensorflow-model-analysis",
    "protobuf",
    "numpy",
)
SHOWN = 10


def summarize(spec: Spec, spec_text: str, outputs: Outputs, steps: Sequence[Step]) -> RunSummary:
    """Read the artifacts of a run."""
    counts = json.loads((outputs.folder("Ingest", "summary") / "counts.json").read_text(encoding="utf-8"))
    passed, reason = blessings.read(outputs.artifact("CheckServable", "blessing"))
    found = load_scores(outputs)
    pushed = outputs.artifact("Pusher", "pushed_model")
    version = pushed.get_string_custom_property("pushed_version")
    verdict = f"blessed and pushed as version {version}" if passed else f"not blessed, not pushed: {reason}"
    return RunSummary(
        name=spec.name,
        finished=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        verdict=verdict,
        passed=passed,
        notice=spec.notice,
        counts=[Count(label, value) for label, value in sorted(counts.items()) if not label.startswith("dropped")],
        dropped=[
            Count(label.split(": ", 1)[1], value)
            for label, value in sorted(counts.items())
            if label.startswith("dropped") and value
        ],
        anomalies=[*_anomalies(outputs), *(_drift(outputs) if spec.drift is not None else [])],
        curves=[
            *_curve("Retrieval: training loss", outputs, "retrieval", "loss"),
            *_curve("Ranking: training loss", outputs, "ranking", "loss"),
            *_curve("Ranking: AUC on training lists", outputs, "ranking", "auc"),
        ],
        tables=metric_tables(spec, found.scores),
        slices=slice_tables(spec, found.slices),
        users=_examples(spec, outputs),
        steps=steps,
        # This process's; ru_maxrss is in KiB on Linux. A child's would count what it shares with us at its start.
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
        spec=spec_text,
    )


def _anomalies(outputs: Outputs) -> list[Anomaly]:
    found = read_anomalies(outputs.folder("ExampleValidator", "anomalies"))
    return [
        Anomaly(split, name, info.short_description, info.description)
        for split, anomalies in found.items()
        for name, info in sorted(anomalies.anomaly_info.items())
    ]


def _drift(outputs: Outputs) -> list[Anomaly]:
    """What differs by more than its threshold."""
    return [
        Anomaly("items" if one.feature.startswith("item_") else "train", one.feature, where, drift.said(one))
        for where, some in drift.read(outputs.folder("DriftValidator", "drift")).items()
        for one in some
        if not one.passed
    ]


def _curve(title: str, outputs: Outputs, trainer: str, metric: str) -> list[Curve]:
    """The curve of a trainer, or none: some models train in no epochs, and not all have every metric."""
    files = outputs.folder(f"Trainer.{trainer}", "model_run").rglob(CURVE_FILE)
    epochs = [epoch for file in files for epoch in json.loads(file.read_text(encoding="utf-8"))]
    points = [(epoch["epoch"], epoch[metric]) for epoch in epochs if metric in epoch]
    return [Curve(title, "epoch", metric, {metric: points})] if points else []


def _examples(spec: Spec, outputs: Outputs) -> list[UserExample]:
    """A few test users, evenly spread over the order of their ids, as the servable answered for them."""
    with np.load(outputs.folder("CheckServable", "summary") / "recommender.npz") as answers:
        names = [name.decode() for name in answers["users"]]
        asked = dict(zip(names, answers["times"].tolist(), strict=True))
        lists = {
            name: [(item.decode(), float(score)) for item, score in zip(ids[:SHOWN], scored, strict=False) if item]
            for name, ids, scored in zip(names, answers["recommend"], answers["scores"], strict=True)
        }
    count = min(spec.evaluation.example_users, len(names))
    chosen = [sorted(names)[int(i)] for i in np.linspace(0, len(names) - 1, count)]
    people = People(outputs.folder("Ingest", "lookup"))
    customers = {customer.user_id: customer for customer in people.customers(chosen)}
    made = []
    for name in chosen:
        customer = customers[name]
        events = list(zip(customer.items, customer.times, strict=True))
        before = [(item, time) for item, time in events if time < asked[name]]
        after = {item for item, time in events if time >= asked[name]}
        recent = before[: -SHOWN - 1 : -1]
        texts = people.descriptions([item for item, _ in (*lists[name], *recent)])
        known = ", ".join(f"{key} {value}" for key, value in customer.features.items())
        owned = {item for item, _ in before}
        made.append(
            UserExample(
                user_id=name,
                description=f"{len(before):,} purchases before the test, {len(after):,} products in it; {known}".rstrip(
                    "; "
                ),
                recent=[Purchase(item, texts.get(item, ""), day(time)) for item, time in recent],
                recommended=[
                    Recommendation(rank, item, texts.get(item, ""), score, item in owned, item in after)
                    for rank, (item, score) in enumerate(lists[name], start=1)
                ],
            )
        )
    return made
