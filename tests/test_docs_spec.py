"""docs/your-data.md: its examples parse, and its table holds every key of the spec with its default."""

import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from twotower.features.spec import Spec, parse

ROOT = Path(__file__).parents[1]
YOUR_DATA = ROOT / "docs" / "your-data.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")])
# What a default cell says where the key has to be given.
REQUIRED = "required"


def specs(document: Path) -> list[str]:
    """The fenced YAML blocks that are whole specs: they begin with the key ``name``."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for block in blocks if block.startswith("name:")]


def models(annotation: Any) -> list[type[BaseModel]]:
    """The sections that an annotation holds, at any depth of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models(part)]


def keys(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    """(key, default as it would stand in YAML) of a section and those below.

    A list's key ends in ``[]``. What only a model or kind that is not the default has stands under ``section[model].``.
    """
    for field_name, field in section.model_fields.items():
        key = prefix + (field.alias or field_name)
        below = models(field.annotation)
        origin = typing.get_origin(field.annotation)
        if not below or origin is tuple or origin is Mapping:
            default = section.model_construct().model_dump(mode="json", include={field_name}).get(field_name)
            yield key, REQUIRED if field.is_required() else default
        mapping = f"{key}.*." if field_name == "steps" else "features.*."
        inner = mapping if origin is Mapping else "drop[]." if key.endswith("drop") else f"{key}[]."
        for model in below:
            if origin is tuple or origin is Mapping:
                yield from keys(model, inner)
            elif len(below) == 1 or not model.model_fields[str(field.discriminator)].is_required():
                yield from keys(model, f"{key}.")
            else:
                (name,) = typing.get_args(model.model_fields[str(field.discriminator)].annotation)
                own = keys(model, f"{key}[{name}].")
                yield from (found for found in own if found[0] != f"{key}[{name}].{field.discriminator}")


def documented() -> dict[str, object]:
    """Key to default of the page's table; keys that share a row stand in its first cell together."""
    _, _, section = YOUR_DATA.read_text(encoding="utf-8").partition("\n## Every key\n")
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    found: dict[str, object] = {}
    for cells in rows:
        for key in re.findall(r"`([^`]+)`", cells[0]):
            assert key not in found, f"{key} stands in the table twice"
            found[key] = yaml.safe_load(cells[2].strip().strip("`"))
    return found


def expected() -> dict[str, object]:
    found: dict[str, object] = {}
    for key, default in keys(Spec):
        assert found.setdefault(key, default) == default, f"{key} has two defaults: the table needs two rows"
    return found


def test_the_table_has_every_key_of_the_spec_and_no_other() -> None:
    assert set(documented()) ^ set(expected()) == set()


def test_the_table_has_the_defaults_of_the_code() -> None:
    found = documented()
    assert {key: found.get(key) for key, default in expected().items() if found.get(key) != default} == {}


def test_the_walk_reaches_every_depth() -> None:
    found = expected()
    assert found["seed"] == 1
    assert found["retrieval.tower_units"] == [128]
    assert found["interactions.user"] == REQUIRED
    assert found["items.from"] is None
    assert {"features.*.separator", "drop[].starts_with", "evaluation.candidates[].min_users"} <= set(found)
    assert "retrieval" not in found
    assert (found["retrieval.model"], found["ranking.model"]) == ("two_tower", "multi_task")
    assert found["retrieval[als].factors"] == 64
    assert "retrieval[als].model" not in found
    assert (found["split.kind"], found["split.test_from"], found["split[given].test"]) == ("time", REQUIRED, REQUIRED)


def test_the_table_names_every_model_and_kind_of_split() -> None:
    text = YOUR_DATA.read_text(encoding="utf-8")
    for section, tag in (("retrieval", "model"), ("ranking", "model"), ("split", "kind")):
        (row,) = re.findall(rf"^\| `{section}\.{tag}` \|.*$", text, re.MULTILINE)
        choices = [
            typing.get_args(model.model_fields[tag].annotation)[0]
            for model in models(Spec.model_fields[section].annotation)
        ]
        assert re.findall(r"`(\w+)`", row.split(" | ")[1]) == choices


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if specs(path)], ids=lambda path: path.name)
def test_every_whole_spec_parses(document: Path) -> None:
    for number, block in enumerate(specs(document), start=1):
        parse(block, where=f"{document.name}, spec {number}", base=document.parent)


def test_there_is_a_spec_to_parse() -> None:
    assert specs(YOUR_DATA)
