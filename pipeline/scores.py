"""Rows of the evaluation tables, as JSON between the steps."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from twotower.features.spec import Spec
from twotower.models.metrics import RankingMetrics
from twotower.models.protocol import EvaluationProtocol, Task
from twotower.models.tables import Users

TASKS: tuple[Task, ...] = ("all", "new")


@dataclass(frozen=True)
class Score:
    """A model's metrics on one candidate set and task, at the spec's cut-off."""

    model: str
    candidates: str
    task: Task
    users: int
    recall: float
    ndcg: float
    map: float
    coverage: float

    @classmethod
    def of(cls, model: str, candidates: str, task: Task, metrics: RankingMetrics) -> Score:
        """The table's columns of ``metrics``."""
        values = (metrics.recall, metrics.ndcg, metrics.map, metrics.coverage)
        return cls(model, candidates, task, metrics.users, *map(float, values))


def protocols(spec: Spec, train: Users, asked: Users, n_items: int) -> dict[str, EvaluationProtocol]:
    """The spec's candidate sets by name."""
    return {
        chosen.name: EvaluationProtocol(
            train=train.history,
            history=asked.history,
            labels=asked.labels,
            n_items=n_items,
            min_users=chosen.min_users,
            k=spec.evaluation.cutoff,
        )
        for chosen in spec.evaluation.candidates
    }


def score(
    model: str,
    sets: dict[str, EvaluationProtocol],
    evaluate: Callable[[EvaluationProtocol, Task], RankingMetrics],
    tasks: Sequence[Task] = TASKS,
) -> list[Score]:
    """One score a candidate set and task."""
    return [Score.of(model, name, task, evaluate(protocol, task)) for name, protocol in sets.items() for task in tasks]


def save(scores: Sequence[Score], path: Path) -> None:
    """Write scores as JSON."""
    path.write_text(json.dumps([asdict(one) for one in scores], indent=1), encoding="utf-8")


def load(path: Path) -> list[Score]:
    """Read what ``save`` wrote."""
    return [Score(**one) for one in json.loads(path.read_text(encoding="utf-8"))]


def find(scores: Sequence[Score], model: str, candidates: str, task: Task) -> Score | None:
    """The score of a model on a candidate set and task, if there is one."""
    return next((s for s in scores if (s.model, s.candidates, s.task) == (model, candidates, task)), None)
