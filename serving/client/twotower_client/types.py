"""What goes into a call and what comes out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: A moment: unix seconds, or a ``datetime`` with a time zone.
Time = int | float | datetime

#: A feature's value: a string, an integer or a float as the model expects; a sequence of them where the feature
#: has more than one value per example; None means "not known", as does leaving the feature out.
FeatureValue: TypeAlias = "str | bytes | int | float | Sequence[Any] | npt.NDArray[Any] | None"


class HistoryEvent(NamedTuple):
    """One interaction of the user's past; a plain ``(item_id, time)`` tuple does as well."""

    item_id: str
    time: Time


class Range(NamedTuple):
    """Numbers from ``above`` to ``below``, both included; None is no limit."""

    above: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Rules:
    """Business rules of one list; those that the model offers are in its ``serving.rules``.

    Attributes:
        allowed: item ids that alone may come back; None allows all.
        filters: by item feature, the labels that an item may have, or the `Range` that its number must be in.
        caps: by item feature, how many items of one label the list takes.
        boosts: by item feature, what the scores of the items with a label are multiplied by.
        diversity: from 0, the list by score alone, to 1, by how little an item is like those before it.
    """

    allowed: Sequence[str] | None = None
    filters: Mapping[str, Sequence[str] | Range] = field(default_factory=dict)
    caps: Mapping[str, int] = field(default_factory=dict)
    boosts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    diversity: float = 0.0


@dataclass(frozen=True)
class Query:
    """Whom to recommend for, and in which situation.

    Attributes:
        user_id: empty for a user without an id.
        history: the user's interactions, in any order; sent as given.
        user: user features by name, without the ``user_`` prefix that they have on the wire.
        context: context features by name, without the ``context_`` prefix.
        time: the moment of the request; None lets the model take its own reference time.
        exclude: item ids that must not come back.
        rules: what else the list must keep to.
    """

    user_id: str = ""
    history: Sequence[tuple[str, Time]] = ()
    user: Mapping[str, FeatureValue] = field(default_factory=dict)
    context: Mapping[str, FeatureValue] = field(default_factory=dict)
    time: Time | None = None
    exclude: Sequence[str] = ()
    rules: Rules = Rules()


class ScoredItem(NamedTuple):
    """An item with the score that orders the list.

    Attributes:
        scores: one score per ranking task; empty where the signature gives none (``retrieve``, ``similar_items``).
    """

    item_id: str
    score: float
    scores: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Recommendation:
    """A list of items, best first, and the version of the model that made it. Iterates over its items.

    Attributes:
        timings: where they were asked for, the milliseconds that each stage took on the server, by name.
    """

    items: tuple[ScoredItem, ...]
    model_version: int
    timings: Mapping[str, float] = field(default_factory=dict)

    def __iter__(self) -> Iterator[ScoredItem]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class Embedding:
    """Vectors of one model version; those of two versions must not be compared.

    Attributes:
        values: float32, ``[dim]`` for one query, ``[n, dim]`` for n items.
    """

    values: npt.NDArray[np.float32]
    model_version: int


@dataclass(frozen=True)
class VersionStatus:
    """One version of the model as the server sees it.

    Attributes:
        state: START, LOADING, AVAILABLE, UNLOADING, END or UNKNOWN.
        error_code: 0, or the ``google.rpc.Code`` of the error that a failed version met.
        error_message: empty when error_code is 0.
    """

    version: int
    state: str
    error_code: int = 0
    error_message: str = ""
