"""Rows of the evaluation tables, as JSON between the steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from twotower.models.protocol import Task


@dataclass(frozen=True)
class Score:
    """A model's metrics on one candidate set and task.

    Attributes:
        model: its name in the tables.
        candidates: name of the candidate set.
        task: ``"all"`` or ``"new"``.
        users: evaluated users.
        values: by name: accuracy at each cut-off, such as ``ndcg@20``, and ``coverage``, ``gini``, ``novelty``,
            ``diversity`` and ``popularity_lift`` at the main one; None where a metric does not apply.
    """

    model: str
    candidates: str
    task: Task
    users: int
    values: Mapping[str, float | None]

    def __post_init__(self) -> None:
        """Refuse a metric that was never updated; raises ValueError."""
        for name, value in self.values.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{self.model}, {self.candidates}, {self.task}: {name} is {value}, expected a number")

    def of(self, name: str) -> float:
        """A metric that always applies, such as ``ndcg@20``."""
        value = self.values[name]
        assert value is not None
        return value


@dataclass(frozen=True)
class SliceScore:
    """A model's main metric on one slice and task, on the first candidate set.

    Attributes:
        model, task: as ``Score`` has them.
        group, name: the slice, such as ``age`` and ``45-54``.
        users: its users; without any there are no values.
        value: the mean; low, high: its 95% bootstrap interval.
        judged: whether the slice has users enough to stop a push.
    """

    model: str
    task: Task
    group: str
    name: str
    users: int
    value: float | None
    low: float | None
    high: float | None
    judged: bool


@dataclass(frozen=True)
class Scores:
    """What one step measured."""

    scores: Sequence[Score]
    slices: Sequence[SliceScore]

    def find(self, model: str, candidates: str, task: Task) -> Score | None:
        """The score of a model on a candidate set and task, if there is one."""
        return next((s for s in self.scores if (s.model, s.candidates, s.task) == (model, candidates, task)), None)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Scores:
        """Read what ``save`` wrote."""
        read = json.loads(path.read_text(encoding="utf-8"))
        return cls([Score(**one) for one in read["scores"]], [SliceScore(**one) for one in read["slices"]])
