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
from twotower.pipeline import scores
from twotower.pipeline.lookup import People, day
from twotower.pipeline.outputs import Outputs
from twotower.pipeline.report import (
    Anomaly,
    Count,
    Curve,
    MetricRow,
    MetricTable,
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
TASK_TITLES = {"all": "All purchases", "new": "Products new to the user"}
BASELINES = ("popularity", "bought most often")


def summarize(spec: Spec, spec_text: str, outputs: Outputs, steps: Sequence[Step]) -> RunSummary:
    """Read the artifacts of a run."""
    counts = json.loads((outputs.folder("Ingest", "summary") / "counts.json").read_text(encoding="utf-8"))
    passed, reason = blessings.read(outputs.artifact("CheckServable", "blessing"))
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
        anomalies=_anomalies(outputs),
        curves=[
            _curve("Retrieval: sampled softmax loss", outputs, "retrieval", "loss"),
            _curve("Ranking: loss of both tasks", outputs, "ranking", "loss"),
            _curve("Ranking: AUC on training lists", outputs, "ranking", "auc"),
        ],
        tables=tables(spec, load_scores(outputs)),
        users=_examples(spec, outputs),
        steps=steps,
        # This process's; ru_maxrss is in KiB on Linux. A child's would count what it shares with us at its start.
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        versions={name: importlib.metadata.version(name) for name in PACKAGES},
        spec=spec_text,
    )


def load_scores(outputs: Outputs) -> list[scores.Score]:
    """The scores of both evaluations."""
    files = [outputs.folder(step, "summary") / "scores.json" for step in ("EvaluateRetrieval", "CheckServable")]
    return [score for file in files for score in scores.load(file)]


def tables(spec: Spec, found: Sequence[scores.Score]) -> list[MetricTable]:
    """A table for each candidate set and task."""
    k = spec.evaluation.cutoff
    made = []
    for chosen in spec.evaluation.candidates:
        for task, title in TASK_TITLES.items():
            rows = [s for s in found if (s.candidates, s.task) == (chosen.name, task)]
            if not rows:
                continue
            which = f"items bought by at least {chosen.min_users} users" if chosen.min_users else "the whole catalogue"
            made.append(
                MetricTable(
                    title=f"{title}: {chosen.name}",
                    caption=f"{rows[0].users:,} users; candidates: {which}; test from {spec.split.test_from:%Y-%m-%d}",
                    columns=[f"Recall@{k}", f"NDCG@{k}", f"MAP@{k}", "Coverage"],
                    rows=[
                        MetricRow(s.model, [s.recall, s.ndcg, s.map, s.coverage], s.model not in BASELINES)
                        for s in rows
                    ],
                )
            )
    return made


def _anomalies(outputs: Outputs) -> list[Anomaly]:
    found = read_anomalies(outputs.folder("ExampleValidator", "anomalies"))
    return [
        Anomaly(split, name, info.short_description, info.description)
        for split, anomalies in found.items()
        for name, info in sorted(anomalies.anomaly_info.items())
    ]


def _curve(title: str, outputs: Outputs, trainer: str, metric: str) -> Curve:
    file = next(outputs.folder(f"Trainer.{trainer}", "model_run").rglob(CURVE_FILE))
    epochs = json.loads(file.read_text(encoding="utf-8"))
    return Curve(title, "epoch", metric, {metric: [(epoch["epoch"], epoch[metric]) for epoch in epochs]})


def _examples(spec: Spec, outputs: Outputs) -> list[UserExample]:
    """A few test users, evenly spread over the order of their ids, as the servable answered for them."""
    with np.load(outputs.folder("CheckServable", "summary") / "recommender.npz") as answers:
        names = [name.decode() for name in answers["users"]]
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
        before = [(item, time) for item, time in events if time < spec.split.start]
        after = {item for item, time in events if time >= spec.split.start}
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
