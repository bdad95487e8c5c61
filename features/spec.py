"""The spec: one YAML file that says where the tables are, what the features are, and what to train and serve.

Typed and frozen; an unknown key is refused with the nearest known one. ``examples/*/spec.yaml`` are the
commented references.
"""

from __future__ import annotations

import datetime as dt
import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from twotower.features.continuous import Drift, Retention, RollingSplit
from twotower.features.errors import InputError
from twotower.features.kubeflow_choices import Kubeflow
from twotower.features.model_choices import MultiTask, Ranking, Retrieval, TwoTower
from twotower.features.section import Column, Name, Positive, Precision, Section
from twotower.features.spec_errors import explain

# The sections that name files.
TABLES = ("interactions", "users", "items", "promotions")


class DropRule(Section):
    """Rows to leave out, counted under ``reason``; exactly one condition on one column."""

    column: Column
    reason: str = Field(min_length=1)
    missing: Literal[True] | None = None
    below: float | None = None
    above: float | None = None
    equals: tuple[str, ...] | None = None
    starts_with: str | None = None

    @pydantic.model_validator(mode="after")
    def _one_condition(self) -> DropRule:
        found = [
            name for name in ("missing", "below", "above", "equals", "starts_with") if getattr(self, name) is not None
        ]
        if len(found) != 1:
            raise ValueError(
                f"expected exactly one of missing, below, above, equals, starts_with; found {found or 'none'}"
            )
        return self


class CategoryFeature(Section):
    """A label. Values seen fewer than ``min_count`` times share the out-of-vocabulary bucket."""

    kind: Literal["category"]
    column: Column | None = None
    min_count: Positive = 1


class NumberFeature(Section):
    """A number: standardised (after ``log1p`` where asked), and bucketed into ``buckets`` quantiles."""

    kind: Literal["number"]
    column: Column | None = None
    log: bool = False
    buckets: Positive = 10


class TextFeature(Section):
    """Free text: lower-cased words, hashed into ``hash_buckets``."""

    kind: Literal["text"]
    column: Column | None = None
    hash_buckets: Positive = 4096
    max_tokens: Positive = 16


class VectorFeature(Section):
    """A fixed-length list of numbers: an image, audio or sentence embedding."""

    kind: Literal["vector"]
    column: Column | None = None
    size: Positive


class SequenceFeature(Section):
    """Several labels: a list column, or text split at ``separator``."""

    kind: Literal["sequence"]
    column: Column | None = None
    separator: str | None = None
    min_count: Positive = 1
    max_length: Positive = 16


class TimeFeature(Section):
    """A moment, seen as a label: its hour of the day (UTC), weekday or month."""

    kind: Literal["time"]
    column: Column | None = None
    part: Literal["hour", "weekday", "month"]


Feature = Annotated[
    CategoryFeature | NumberFeature | TextFeature | VectorFeature | SequenceFeature | TimeFeature,
    Field(discriminator="kind"),
]
ContextFeature = Annotated[CategoryFeature | TimeFeature, Field(discriminator="kind")]


class Source(Section):
    """Where a table's rows come from."""

    path: str | None = Field(None, min_length=1, description="a file or a glob, relative to the spec")
    format: Literal["csv", "parquet", "tfrecord"] | None = None

    def files(self) -> list[Path]:
        """The table's files in name order.

        Raises:
            InputError: nothing matches the path.
        """
        assert self.path is not None
        if Path(self.path).is_file():  # also where its name has a bracket in it
            return [Path(self.path)]
        names = glob.glob(self.path, recursive=True)  # noqa: PTH207 (absolute patterns)
        found = sorted(file for file in map(Path, names) if file.is_file())
        if not found:
            raise InputError(f"{self.path}: no such file; expected a CSV, Parquet or TFRecord file, or a glob of them")
        return found

    def file_format(self, file: Path) -> str:
        """``csv``, ``parquet`` or ``tfrecord``: as the spec says, or else by the file's ending.

        Raises:
            InputError: the spec does not say and the ending is not known.
        """
        endings = {".csv": "csv", ".parquet": "parquet", ".tfrecord": "tfrecord", ".tfrecords": "tfrecord"}
        suffixes = [suffix for suffix in file.suffixes if suffix != ".gz"]
        known = self.format or (endings.get(suffixes[-1]) if suffixes else None)
        if known is None:
            raise InputError(f"{file}: unknown ending; expected one of {', '.join(endings)}, or the key 'format'")
        return known


class Interactions(Source):
    """The purchases: who, what, when, and how many. A row is an event."""

    path: str = Field(min_length=1)
    user: Column
    item: Column
    time: Column
    time_format: str | None = None
    quantity: Column | None = None
    drop: tuple[DropRule, ...] = ()
    max_events_per_user: Positive = 20_000


class EntityTable(Source):
    """One row an id, from a file of its own or from the interactions that are trained on."""

    from_: Literal["interactions"] | None = Field(None, alias="from")
    id: Column
    duplicates: Literal["error", "last"] = "error"
    drop: tuple[DropRule, ...] = ()
    describe: tuple[Column, ...] = ()
    features: Mapping[Name, Feature] = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _one_source(self) -> EntityTable:
        if (self.path is None) == (self.from_ is None):
            raise ValueError("expected exactly one of the keys 'path' and 'from'")
        if self.from_ is not None and (self.duplicates == "error" or self.drop):
            raise ValueError(
                "a table from the interactions repeats its ids and is filtered by their rules: "
                "expected 'duplicates: last' and no 'drop'"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _distinct_names(self) -> EntityTable:
        for name in ("id", "key"):  # Transform's user_id, user_key and item_id
            if name in self.features:
                raise ValueError(f"the feature name '{name}' is taken by the table's own id; expected another name")
        for name, feature in self.features.items():
            if isinstance(feature, NumberFeature) and f"{name}_bucket" in self.features:
                raise ValueError(f"the feature name '{name}_bucket' is taken by the buckets of '{name}'")
        return self


class Users(EntityTable):
    """The customers; optional. A user without a row is known by id and history."""


class Items(EntityTable):
    """The catalogue; optional. An item without a row is known by id."""


class Promotions(Source):
    """When items are on promotion: a row each, with times to come as far as they are planned; optional."""

    path: str = Field(min_length=1)
    item: Column
    from_: Column = Field(alias="from")
    until: Column
    time_format: str | None = None
    strengths: Mapping[Name, Column] = Field(default_factory=dict)
    known_days: int = Field(0, ge=0)

    @pydantic.field_validator("strengths")
    @classmethod
    def _distinct_names(cls, strengths: Mapping[str, str]) -> Mapping[str, str]:
        for name in ("start", "end"):
            if name in strengths:
                raise ValueError(f"the name '{name}' is taken by a promotion's time; expected another name")
        return strengths

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the strengths; without any, each promotion is 1 strong."""
        return tuple(self.strengths) or ("on",)


class TimeSplit(Section):
    """The last stretch of time is the test; nothing of it reaches training."""

    kind: Literal["time"] = "time"
    test_from: dt.datetime
    test_days: Positive | None = None
    train_from: dt.datetime | None = None

    @pydantic.field_validator("test_from", "train_from", mode="before")
    @classmethod
    def _no_number(cls, value: object) -> object:
        if isinstance(value, int | float):  # 20171201 would be a second of the year 1970
            raise ValueError("expected a date or time like 2017-12-01 or 2017-12-01T00:00:00+01:00")
        return value

    @pydantic.model_validator(mode="after")
    def _trains_before_the_test(self) -> TimeSplit:
        if self.train_start is not None and self.train_start >= self.start:
            raise ValueError("train_from: expected a time before test_from")
        return self

    @property
    def start(self) -> int:
        """First second of the test, unix seconds; a time without a zone is UTC."""
        return _seconds(self.test_from)

    @property
    def train_start(self) -> int | None:
        """First second that is known at all, or None where all the data before the test are."""
        return None if self.train_from is None else _seconds(self.train_from)

    @property
    def end(self) -> int | None:
        """First second after the test, or None where it lasts to the end of the data."""
        return None if self.test_days is None else self.start + self.test_days * 86_400


def _seconds(moment: dt.datetime) -> int:
    return int((moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp())


class LastOutSplit(Section):
    """Each user's events at their last moment are the test; who has one moment alone is only trained on."""

    kind: Literal["leave_last_out"]


class GivenSplit(Section):
    """The interactions are what is trained on, and another table of the same columns is the test."""

    kind: Literal["given"]
    test: str = Field(min_length=1)


Split = Annotated[TimeSplit | LastOutSplit | GivenSplit | RollingSplit, Field(discriminator="kind")]


class CandidateSet(Section):
    """What an evaluation ranks: the items that at least ``min_users`` users bought before the test."""

    name: Name
    min_users: int = Field(ge=0)


class Evaluation(Section):
    """How the lists are judged, and what a model must reach to be blessed; the first cut-off is the main one."""

    cutoffs: tuple[Positive, ...] = Field((20, 5, 10), min_length=1)
    metric: Literal["recall", "precision", "hit_rate", "ndcg", "map", "mrr"] = "ndcg"
    retrieval_task: Literal["all", "new"] = "new"
    candidates: tuple[CandidateSet, ...] = Field((CandidateSet(name="catalogue", min_users=0),), min_length=1)
    tolerance: float = Field(0.05, ge=0, lt=1)
    user_slices: tuple[Name, ...] | None = None
    item_slices: Name | None = None
    new_item_days: Positive = 30
    min_slice_users: Positive = 50
    max_users: Positive = 50_000
    slice_tolerance: float = Field(0.1, ge=0, lt=1)
    resamples: Positive = 1000
    min_auc: float = Field(0.6, ge=0, le=1)
    example_users: int = Field(5, ge=0)

    @pydantic.field_validator("cutoffs")
    @classmethod
    def _distinct(cls, cutoffs: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(cutoffs)) < len(cutoffs):
            raise ValueError("expected each cut-off once")
        return cutoffs


class Rules(Section):
    """The business rules that a request may give: by which of the items' features, and what else."""

    filters: tuple[Name, ...] = ()
    caps: tuple[Name, ...] = ()
    boosts: tuple[Name, ...] = ()
    allow_list: bool = False
    diversity: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """Every feature that a rule reads, once."""
        return tuple(dict.fromkeys((*self.filters, *self.caps, *self.boosts)))


class Serving(Section):
    """What is pushed, in how many servables, what requests may ask for, and which index ``twotower serve`` picks."""

    model_name: Name = "recommender"
    shape: Literal["composed", "two_stage"] = "composed"
    rules: Rules = Rules()
    index: Literal["scann", "portable"] = "scann"
    exact_below: int = Field(20_000, ge=0)
    embeddings: Precision = "float32"


class Batch(Section):
    """That each run writes the lists of all users, and how long they are."""

    k: Positive = 20


class Spec(Section):
    """One shop."""

    name: Name
    notice: str = ""
    seed: int = 1
    interactions: Interactions
    users: Users | None = None
    items: Items | None = None
    promotions: Promotions | None = None
    context: Mapping[Name, ContextFeature] = Field(default_factory=dict)
    split: Split
    schema_file: str | None = Field(None, min_length=1)
    retrieval: Retrieval = TwoTower()
    ranking: Ranking = MultiTask()
    evaluation: Evaluation = Evaluation()
    serving: Serving = Serving()
    batch: Batch | None = None
    kubeflow: Kubeflow | None = None
    drift: Drift | None = None
    retention: Retention = Retention()

    @pydantic.field_validator("split", mode="before")
    @classmethod
    def _in_time_unless_said(cls, value: object) -> object:
        return {"kind": "time", **value} if isinstance(value, dict) else value

    @pydantic.field_validator("retrieval", mode="before")
    @classmethod
    def _two_towers_unless_said(cls, value: object) -> object:
        return {"model": "two_tower", **value} if isinstance(value, dict) else value

    @pydantic.field_validator("ranking", mode="before")
    @classmethod
    def _multi_task_unless_said(cls, value: object) -> object:
        return {"model": "multi_task", **value} if isinstance(value, dict) else value

    @pydantic.model_validator(mode="after")
    def _context_times_have_no_column(self) -> Spec:
        for name, feature in self.context.items():
            if isinstance(feature, TimeFeature) and feature.column is not None:
                found = f"context.{name}: found column '{feature.column}'"
                raise ValueError(f"{found}, expected none: a time in the context is the request's own")
        return self

    @pydantic.model_validator(mode="after")
    def _slices_are_labels(self) -> Spec:
        named = [("user_slices", name, self.user_features) for name in self.evaluation.user_slices or ()]
        if self.evaluation.item_slices is not None:
            named.append(("item_slices", self.evaluation.item_slices, self.item_features))
        for key, name, features in named:
            if not isinstance(features.get(name), CategoryFeature):
                labels = [label for label, feature in features.items() if isinstance(feature, CategoryFeature)]
                expected = f"one of {', '.join(labels)}" if labels else "none, for no feature there is one"
                raise ValueError(f"evaluation.{key}: found '{name}', expected a feature of kind category: {expected}")
        return self

    @pydantic.model_validator(mode="after")
    def _rules_read_what_items_have(self) -> Spec:
        rules = self.serving.rules
        for key, names, kinds in (
            ("filters", rules.filters, (CategoryFeature, NumberFeature)),
            ("caps", rules.caps, (CategoryFeature,)),
            ("boosts", rules.boosts, (CategoryFeature,)),
        ):
            fitting = [name for name, feature in self.item_features.items() if isinstance(feature, kinds)]
            for name in names:
                if name not in fitting:
                    kind = "category or number" if len(kinds) > 1 else "category"
                    expected = f"one of {', '.join(fitting)}" if fitting else "none, for no feature there is one"
                    raise ValueError(
                        f"serving.rules.{key}: found '{name}', expected an item feature of kind {kind}: {expected}"
                    )
        return self

    @property
    def test_interactions(self) -> Interactions | None:
        """The table that is the test, where it is a table of its own."""
        if not isinstance(self.split, GivenSplit):
            return None
        return self.interactions.model_copy(update={"path": self.split.test})

    @property
    def files(self) -> list[tuple[Source, Path]]:
        """Every file that a run reads, with its table.

        Raises:
            InputError: a table has no file.
        """
        tables = (self.interactions, self.test_interactions, self.users, self.items, self.promotions)
        return [(table, file) for table in tables if table is not None and table.path for file in table.files()]

    @property
    def user_features(self) -> Mapping[str, Feature]:
        """Features of the users table by name; none without one."""
        return self.users.features if self.users else {}

    @property
    def item_features(self) -> Mapping[str, Feature]:
        """Features of the items table by name; none without one."""
        return self.items.features if self.items else {}


def parse(text: str, *, where: str, base: Path, paths: Mapping[str, str] | None = None) -> Spec:
    """Read a spec from YAML text.

    Args:
        text: the YAML.
        where: the file's name, for errors.
        base: the folder that relative paths start from.
        paths: table paths that replace the spec's own, by section of ``TABLES``.

    Raises:
        InputError: naming the key, what was found and what was expected.
    """
    try:
        raw = yaml.load(text, _UniqueKeys)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise InputError(
            f"{where}: expected a mapping of keys such as name, interactions, split; found {type(raw).__name__}"
        )
    for section, path in (paths or {}).items():
        if not isinstance(raw.get(section), dict):
            raise InputError(f"{where}: a path was given for '{section}', which the spec does not have")
        raw[section] = {**raw[section], "path": str(Path(path).absolute())}
    for section in TABLES:
        table = raw.get(section)
        if isinstance(table, dict) and isinstance(table.get("path"), str) and table["path"]:
            raw[section] = {**table, "path": str(base / table["path"])}
    if isinstance(raw.get("schema_file"), str) and raw["schema_file"]:
        raw["schema_file"] = str(base / raw["schema_file"])
    split = raw.get("split")
    if isinstance(split, dict) and isinstance(split.get("test"), str) and split["test"]:
        raw["split"] = {**split, "test": str(base / split["test"])}
    for section, key in (("drift", "serving_logs"), ("retention", "config_file")):
        given = raw.get(section)
        if isinstance(given, dict) and isinstance(given.get(key), str) and given[key]:
            raw[section] = {**given, key: str(base / given[key])}
    try:
        return Spec.model_validate(raw)
    except pydantic.ValidationError as error:
        raise InputError(explain(error, Spec, where)) from None


def load(path: str | Path, paths: Mapping[str, str] | None = None, base: Path | None = None) -> Spec:
    """Read the spec file at ``path``; see ``parse``. Without ``base``, relative paths start from the file's folder.

    Raises:
        InputError: the file cannot be read, or as ``parse`` does.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the spec: {error}") from None
    return parse(text, where=str(path), base=base or path.absolute().parent, paths=paths)


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML's safe loader, except that a key that stands twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key.value}' twice", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)
