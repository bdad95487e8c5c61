"""All that is kept of a pipeline run, as frozen dataclasses and as JSON; ``report`` makes the page of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar, TypeVar

from pydantic import AfterValidator, ConfigDict, PlainSerializer, TypeAdapter


def _json_number(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


# JSON has no word for the not-a-number of a diverged loss, and pydantic would write null: a string keeps it.
Number = Annotated[float, PlainSerializer(_json_number, when_used="json")]
T = TypeVar("T")
# JSON has one kind of list; read back, it becomes a tuple, so that a summary built of tuples equals its copy.
Many = Annotated[Sequence[T], AfterValidator(tuple)]

STATUSES = ("ran", "cached", "looked up", "failed")


class _Strict:
    """Read from JSON, every class below refuses a key that it does not know."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Step(_Strict):
    """One pipeline step: status is ``ran``, ``cached``, ``looked up`` or ``failed``; seconds is wall-clock time."""

    name: str
    status: str
    seconds: float

    def __post_init__(self) -> None:
        """Refuse a status that the page has no word for; raises ValueError."""
        if self.status not in STATUSES:
            raise ValueError(f"step {self.name!r}: status {self.status!r}, expected one of {', '.join(STATUSES)}")


@dataclass(frozen=True)
class Count(_Strict):
    """How many of something: rows read, users kept, rows dropped by the rule that the label names."""

    label: str
    value: int
    note: str = ""


@dataclass(frozen=True)
class Anomaly(_Strict):
    """What data validation found wrong with one feature of one split."""

    split: str
    feature: str
    summary: str
    detail: str


@dataclass(frozen=True)
class Curve(_Strict):
    """One chart: every named series is a list of (x, y) points. A y that is not finite leaves a gap."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Many[tuple[Number, Number]]]


@dataclass(frozen=True)
class MetricRow(_Strict):
    """One model's values, one a column; None where a metric does not apply. ``ours``: trained by this run."""

    model: str
    values: Many[Number | None]
    ours: bool


@dataclass(frozen=True)
class MetricTable(_Strict):
    """Models beside each other. Higher is better, except in a column whose name ends in ``↓``."""

    title: str
    caption: str
    columns: Many[str]
    rows: Many[MetricRow]

    def __post_init__(self) -> None:
        """Refuse a row that is longer or shorter than the header; raises ValueError."""
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(
                    f"table {self.title!r}, row {row.model!r}: {len(row.values)} values, expected {len(self.columns)}"
                )


@dataclass(frozen=True)
class SliceCell(_Strict):
    """One model's value on a slice, with the ends of its interval."""

    value: Number
    low: Number
    high: Number


@dataclass(frozen=True)
class SliceRow(_Strict):
    """One slice: its group and name, its users, and a cell a model; None where the model was not measured."""

    group: str
    name: str
    users: int
    cells: Many[SliceCell | None]


@dataclass(frozen=True)
class SliceTable(_Strict):
    """Models beside each other on slices, of which the ``small`` ones are only counted."""

    title: str
    caption: str
    models: Many[str]
    rows: Many[SliceRow]
    small: Many[Count]

    def __post_init__(self) -> None:
        """Refuse a row that is longer or shorter than the header; raises ValueError."""
        for row in self.rows:
            if len(row.cells) != len(self.models):
                raise ValueError(
                    f"table {self.title!r}, slice {row.name!r}: {len(row.cells)} cells, expected {len(self.models)}"
                )


@dataclass(frozen=True)
class Purchase(_Strict):
    """Something that a user bought before the test period; ``when`` is shown as it is."""

    item_id: str
    description: str
    when: str


@dataclass(frozen=True)
class Recommendation(_Strict):
    """One line of a user's list: bought before the test period (a repeat), bought in it (a hit)."""

    rank: int
    item_id: str
    description: str
    score: Number
    bought_before: bool
    bought_after: bool


@dataclass(frozen=True)
class UserExample(_Strict):
    """One user, what they bought lately (latest first), and the list that they would be shown (best first)."""

    user_id: str
    description: str
    recent: Many[Purchase]
    recommended: Many[Recommendation]


@dataclass(frozen=True)
class RunSummary(_Strict):
    """All that the page says about a run.

    ``verdict`` is a sentence ("Blessed and pushed as version 3", "Not blessed: ..."), ``passed`` its colour;
    ``notice`` says what the reader must know about the data; ``spec`` is the spec file's text.
    """

    name: str
    finished: str
    verdict: str
    passed: bool
    notice: str
    counts: Many[Count]
    dropped: Many[Count]
    anomalies: Many[Anomaly]
    curves: Many[Curve]
    tables: Many[MetricTable]
    slices: Many[SliceTable]
    users: Many[UserExample]
    steps: Many[Step]
    peak_memory_mb: float
    versions: Mapping[str, str]
    spec: str


def to_json(summary: RunSummary) -> str:
    """The summary as indented JSON, which ``from_json`` reads back."""
    return _adapter().dump_json(summary, indent=2).decode()


def from_json(text: str | bytes) -> RunSummary:
    """Read what ``to_json`` wrote; sequences come back as tuples.

    Raises pydantic.ValidationError, a ValueError, naming each field that is missing, unknown or of another type.
    """
    return _adapter().validate_json(text)


@cache
def _adapter() -> TypeAdapter[RunSummary]:
    return TypeAdapter(RunSummary)
