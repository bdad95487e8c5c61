"""What is wrong with a spec, in a person's words: the key, what was found, what was expected, the nearest known key."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel


def explain(error: pydantic.ValidationError, spec: type[BaseModel], where: str) -> str:
    """All faults that pydantic found, in one line.

    Args:
        error: what validating raised.
        spec: the model that was validated.
        where: the file's name.
    """
    return f"{where}: " + "; ".join(_explain_one(problem, spec) for problem in error.errors())


def _explain_one(problem: Mapping[str, Any], spec: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"] if part != "[key]"]
    parts, parent = _resolve(spec, location[:-1])
    key = ".".join([*parts, *location[-1:]])
    found = problem["input"]
    if problem["type"] == "extra_forbidden":
        known = [name for model in _models(parent) for name in _aliases(model)]
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        return f"unknown key '{key}': " + (
            f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(sorted(known))}"
        )
    if problem["type"] == "missing":
        present = [name for name in found if isinstance(name, str)] if isinstance(found, dict) else []
        near = difflib.get_close_matches(location[-1], present, n=1, cutoff=0.6)
        return f"missing key '{key}': found " + (f"'{near[0]}'" if near else _brief(found))
    if problem["type"].startswith("union_tag"):
        tag = problem["ctx"]["discriminator"].strip("'")
        kinds = [_kind(model) for model in _models(_resolve(spec, location)[1])]
        kind = found.get(tag)
        near = difflib.get_close_matches(str(kind), kinds, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"key '{key}.{tag}': found {_brief(kind)}, expected one of {', '.join(kinds)}{hint}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"key '{key}': found {_brief(found)}; {message[0].lower()}{message[1:]}"


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _resolve(spec: type[BaseModel], location: Sequence[str]) -> tuple[list[str], Any]:
    """The keys of the file that lead to ``location``, and the annotation of what stands there."""
    keys: list[str] = []
    section: Any = spec
    for part in location:
        models = _models(section)
        if len(models) > 1:  # pydantic names the chosen kind of feature or model too, which is no key of the file
            section = next(m for m in models if _kind(m) == part)
            continue
        keys.append(part)
        section = _step(section, models, part)
    return keys, section


def _kind(model: type[BaseModel]) -> str:
    """What a member of a union calls itself: its ``kind`` or ``model``."""
    field = model.model_fields.get("kind") or model.model_fields["model"]
    return str(typing.get_args(field.annotation)[0])


def _step(annotation: Any, models: Sequence[type[BaseModel]], part: str) -> Any:
    """The annotation of one field of a model, of a tuple's entry, or of a mapping's value."""
    for model in models:
        return next(f.annotation for name, f in model.model_fields.items() if part in (name, f.alias))
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):  # optional
        return _step(arguments[0], models, part)
    return arguments[0] if typing.get_origin(annotation) is tuple else arguments[1]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        return [model for part in typing.get_args(annotation) for model in _models(part)]
    return []


def _aliases(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
