"""Rules as the input tensors of a signature; what a query leaves out is no rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import Any

from .errors import InvalidRequestError
from .features import padded, plain
from .inputs import counting_number
from .tensors import Tensor
from .types import Query, Range


def rule_columns(queries: Sequence[Query]) -> dict[str, Tensor]:
    """Lay out the rules that any of the queries gives, one column per input.

    Returns:
        ``allowed_item_ids`` and ``filter_<feature>`` [b, v], ``above_<feature>`` and ``below_<feature>`` [b],
        ``cap_<feature>`` [b], ``boost_<feature>`` and ``boost_<feature>_factors`` [b, v], ``diversity`` [b].

    Raises:
        InvalidRequestError: a rule that says nothing, or a number out of its range.
    """
    rows: dict[str, dict[int, Any]] = {}
    for row, query in enumerate(queries):
        for name, value in _inputs(query).items():
            rows.setdefault(name, {})[row] = value
    return {name: _column(given, len(queries)) for name, given in rows.items()}


def _inputs(query: Query) -> dict[str, Any]:
    """The inputs of one query: a list where there may be several values, otherwise a number."""
    rules = query.rules
    found: dict[str, Any] = {}
    if rules.allowed is not None:
        found["allowed_item_ids"] = _labels("allowed", rules.allowed)
    for name, wanted in rules.filters.items():
        if isinstance(wanted, Range):
            found[f"above_{name}"] = nan if wanted.above is None else _number(f"filters[{name!r}]", wanted.above)
            found[f"below_{name}"] = nan if wanted.below is None else _number(f"filters[{name!r}]", wanted.below)
        else:
            found[f"filter_{name}"] = _labels(f"filters[{name!r}]", wanted)
    for name, most in rules.caps.items():
        found[f"cap_{name}"] = counting_number(most, f"caps[{name!r}]")
    for name, factors in rules.boosts.items():
        found[f"boost_{name}"] = _labels(f"boosts[{name!r}]", list(factors))
        found[f"boost_{name}_factors"] = [_number(f"boosts[{name!r}]", factor, 0.0) for factor in factors.values()]
    if rules.diversity:
        found["diversity"] = _number("diversity", rules.diversity, 0.0, 1.0)
    return found


def _labels(what: str, labels: Sequence[str]) -> list[bytes]:
    if isinstance(labels, (str, bytes)) or not labels or not all(isinstance(each, str) and each for each in labels):
        raise InvalidRequestError(f"{what}: expected a list of at least one non-empty string, found {labels!r}")
    return [label.encode() for label in labels]


def _number(what: str, value: float, least: float | None = None, most: float | None = None) -> float:
    number = plain(value)
    if (
        not isinstance(number, (int, float))
        or isinstance(number, bool)
        or not isfinite(number)
        or (least is not None and number < least)
        or (most is not None and number > most)
    ):
        limits = "" if least is None else f" of at least {least:g}" if most is None else f" from {least:g} to {most:g}"
        raise InvalidRequestError(f"{what}: expected a number{limits}, found {value!r}")
    return float(number)


def _column(given: Mapping[int, Any], batch: int) -> Tensor:
    example = next(iter(given.values()))
    if isinstance(example, list):
        none = b"" if isinstance(example[0], bytes) else nan
        return padded([given.get(row, ()) for row in range(batch)], none)
    return Tensor((batch,), [given.get(row, 0 if isinstance(example, int) else nan) for row in range(batch)])
