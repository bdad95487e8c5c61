"""From the scores of a run's evaluations to the report's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twotower.features.continuous import RollingSplit
from twotower.features.spec import GivenSplit, LastOutSplit, Spec, Split, TimeSplit
from twotower.pipeline.judge import LAST, OURS
from twotower.pipeline.outputs import Outputs
from twotower.pipeline.run_summary import Count, MetricRow, MetricTable, SliceCell, SliceRow, SliceTable
from twotower.pipeline.scores import Score, Scores, SliceScore

TASK_TITLES = {"all": "All purchases", "new": "Products new to the user"}
BASELINES = ("popularity", "bought most often")
# By slice, one column each; the other lists differ little from one of these.
COMPARED = (*BASELINES, "retrieval", OURS, LAST)
TITLES = {"recall": "Recall", "precision": "Prec.", "hit_rate": "Hit rate", "ndcg": "NDCG", "map": "MAP", "mrr": "MRR"}
LISTS = {
    "coverage": "Coverage",
    "gini": "Gini ↓",
    "novelty": "Novelty",
    "diversity": "Diversity",
    "popularity_lift": "Lift ↓",
}


def load_scores(outputs: Outputs) -> Scores:
    """The scores of both evaluations."""
    files = [outputs.folder(step, "summary") / "scores.json" for step in ("EvaluateRetrieval", "CheckServable")]
    read = [Scores.load(file) for file in files]
    return Scores([score for one in read for score in one.scores], [score for one in read for score in one.slices])


def metric_tables(spec: Spec, found: Sequence[Score]) -> list[MetricTable]:
    """A table for each candidate set and task; for the first set one more with the other cut-offs."""
    main, *others = spec.evaluation.cutoffs
    made = []
    for chosen in spec.evaluation.candidates:
        which = f"items bought by at least {chosen.min_users} users" if chosen.min_users else "the whole catalogue"
        for task, title in TASK_TITLES.items():
            rows = [s for s in found if (s.candidates, s.task) == (chosen.name, task)]
            if not rows:
                continue
            caption = f"{rows[0].users:,} users; candidates: {which}; {_test(spec.split)}"
            columns = {f"{name}@{main}": f"{text}@{main}" for name, text in TITLES.items()} | LISTS
            made.append(_table(f"{title}: {chosen.name}", caption, columns, rows))
            if others and chosen == spec.evaluation.candidates[0]:
                names = ("recall", "ndcg", "hit_rate", "mrr")
                columns = {f"{name}@{k}": f"{TITLES[name]}@{k}" for k in others for name in names}
                made.append(_table(f"{title}: {chosen.name}, other cut-offs", caption, columns, rows))
    return made


def slice_tables(spec: Spec, found: Sequence[SliceScore]) -> list[SliceTable]:
    """A table for each task: the main metric by slice; slices that are too small to judge are counted only."""
    chosen = spec.evaluation
    made = []
    for task, title in TASK_TITLES.items():
        cells = {(s.group, s.name, s.model): s for s in found if s.task == task}
        models = [model for model in COMPARED if any(key[2] == model for key in cells)]
        slices = {(s.group, s.name): s for s in cells.values()}
        rows = [
            SliceRow(group, name, one.users, [_cell(cells.get((group, name, model))) for model in models])
            for (group, name), one in slices.items()
            if one.judged
        ]
        small = [Count(f"{group}, {name}", s.users) for (group, name), s in slices.items() if not s.judged]
        if rows or small:
            metric = f"{TITLES[chosen.metric]}@{chosen.cutoffs[0]}"
            made.append(
                SliceTable(
                    title=f"{title}: {chosen.candidates[0].name}, by slice",
                    caption=f"{metric} with a 95% interval from {chosen.resamples:,} bootstrap resamples of the users; "
                    f"slices of at least {chosen.min_slice_users} users",
                    models=models,
                    rows=rows,
                    small=small,
                )
            )
    return made


def _test(split: Split) -> str:
    """What the test is, and what a reader must know of it."""
    match split:
        case TimeSplit():
            window = "" if split.train_from is None else f", trained on {split.train_from:%Y-%m-%d} and after"
            return f"split in time, test from {split.test_from:%Y-%m-%d}{window}"
        case LastOutSplit():
            return "leave last out: each user's last basket is the test, and others' later purchases are known"
        case GivenSplit():
            return f"given test: {Path(split.test).name}"
        case RollingSplit():
            return f"the last {split.test_days} days are the test"


def _table(title: str, caption: str, columns: dict[str, str], rows: Sequence[Score]) -> MetricTable:
    values = [MetricRow(s.model, [s.values[name] for name in columns], s.model not in (*BASELINES, LAST)) for s in rows]
    return MetricTable(title, caption, list(columns.values()), values)


def _cell(score: SliceScore | None) -> SliceCell | None:
    if score is None or score.value is None or score.low is None or score.high is None:
        return None
    return SliceCell(score.value, score.low, score.high)
