"""The floors of BUILD.md: features < models < serving < pipeline, and the two rooms that stand apart."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("features", "models", "serving", "pipeline")
CLIENT, SERVER = ROOT / "serving" / "client", ROOT / "serving" / "server"
# What serving/client/setup.py requires, its extra included, by the name that it is imported as.
CLIENT_NEEDS = {"grpc", "numpy", "google.protobuf"}
# What is too heavy for a machine that only serves.
TRAINING = {
    "apache_beam",
    "ml_metadata",
    "tensorflow_data_validation",
    "tensorflow_model_analysis",
    "tensorflow_recommenders",
    "tensorflow_transform",
    "tfx",
    "tfx_bsl",
}
TESTING = {"conftest", "hypothesis", "pytest", "tests", *(path.stem for path in ROOT.glob("tests/**/*.py"))}


def imports(source: str, package: str) -> Iterator[str]:
    """The dotted names that ``source`` imports, at the top or inside functions.

    Relative ones are resolved in ``package``, the dotted name of the source's own folder. ``from a import b`` gives
    ``a.b``, which may be a module or what stands in one.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def is_within(name: str, *packages: str) -> bool:
    """Whether a dotted name is one of the packages or lies in one."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def found(folder: Path) -> list[tuple[str, str]]:
    """(file, imported name) of every import under a folder of the project."""
    pairs = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(ROOT).parent.parts
        package = ".".join(parts[2:] if path.is_relative_to(CLIENT) else ("twotower", *parts))
        names = imports(path.read_text(encoding="utf-8"), package)
        pairs += [(str(path.relative_to(ROOT)), name) for name in names]
    return pairs


def test_every_way_to_import_is_found() -> None:
    source = """
import os, a.b
from twotower import pipeline
from twotower.models import metrics as m
from . import near
from ..base import thing
def late():
    import tfx.v1
"""
    assert set(imports(source, "twotower.serving.index")) == {
        "os",
        "a.b",
        "twotower.pipeline",
        "twotower.models.metrics",
        "twotower.serving.index.near",
        "twotower.serving.base.thing",
        "tfx.v1",
    }
    assert is_within("tfx", "tfx")
    assert is_within("tfx.v1", "tfx")
    assert not is_within("tfx_bsl", "tfx")


def test_nothing_imports_all_of_tfx() -> None:
    # ``tfx.v1`` imports Vertex AI's client too, which takes eight seconds of each process of a pipeline.
    assert [pair for floor in FLOORS for pair in found(ROOT / floor) if is_within(pair[1], "tfx.v1")] == []


@pytest.mark.parametrize("floor", FLOORS)
def test_a_floor_imports_only_itself_and_those_below(floor: str) -> None:
    allowed = [f"twotower.{below}" for below in FLOORS[: FLOORS.index(floor) + 1]]
    ours = [(file, name) for file, name in found(ROOT / floor) if is_within(name, "twotower")]
    assert ours
    assert [pair for pair in ours if not is_within(pair[1], *allowed)] == []


@pytest.mark.parametrize("floor", FLOORS)
def test_nothing_imports_the_tests(floor: str) -> None:
    assert [pair for pair in found(ROOT / floor) if is_within(pair[1], *TESTING)] == []


def test_only_the_pipeline_uses_the_client() -> None:
    for floor in FLOORS[:-1]:
        outside = [(file, name) for file, name in found(ROOT / floor) if not (ROOT / file).is_relative_to(CLIENT)]
        assert [pair for pair in outside if is_within(pair[1], "twotower_client")] == []


def test_the_client_imports_nothing_of_ours_and_no_tensorflow() -> None:
    names = found(CLIENT / "twotower_client")
    assert any(is_within(name, "grpc") for _, name in names)
    known = {*sys.stdlib_module_names, *CLIENT_NEEDS, "twotower_client"}
    assert [pair for pair in names if not is_within(pair[1], *known)] == []


def test_the_server_imports_neither_the_floors_nor_what_trains() -> None:
    names = found(SERVER)
    assert any(is_within(name, "tensorflow_serving") for _, name in names)
    ours = [pair for pair in names if is_within(pair[1], "twotower", "twotower_client")]
    assert [pair for pair in ours if not is_within(pair[1], "twotower.serving.server")] == []
    assert [pair for pair in names if is_within(pair[1], *TRAINING)] == []
