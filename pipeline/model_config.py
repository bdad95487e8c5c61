"""TensorFlow Serving's model config file, where it says which versions are served under which labels.

The file (a ``ModelServerConfig`` in protobuf's text form) is the one place that says so. A version stays loaded as long
as a label names it: ``stable`` serves, ``canary`` is on trial, ``previous`` was stable before and is what a rollback
returns to.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from twotower.features.errors import InputError

STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"

Change = Callable[[model_server_config_pb2.ModelConfig], None]


def read(path: Path) -> model_server_config_pb2.ModelServerConfig:
    """The config of a file.

    Raises:
        InputError: it cannot be read, or is no ModelServerConfig with a list of models.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the model config file: {error}") from None
    try:
        config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    except text_format.ParseError as error:
        raise InputError(f"{path}: expected a ModelServerConfig in text form: {error}") from None
    if not config.model_config_list.config:
        raise InputError(f"{path}: model_config_list: expected at least one config, found none")
    return config


@contextmanager
def replaced(path: Path, config: model_server_config_pb2.ModelServerConfig) -> Iterator[None]:
    """Replaces the file when the block ends well; else it stays as it was, and nothing is left beside it.

    The new file is complete on the disk before the block begins. It has the old one's mode and the comments at its top;
    other comments are lost.

    Raises:
        InputError: the folder cannot be written to.
    """
    try:
        comments = re.match(r"(\s*#[^\n]*\n|\s*\n)*", path.read_text(encoding="utf-8"))
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write((comments[0] if comments else "") + text_format.MessageToString(config))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{path}: cannot write beside it: {error.strerror}") from None
    try:
        temporary.chmod(path.stat().st_mode & 0o7777)
        yield
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def changed(
    path: Path, config: model_server_config_pb2.ModelServerConfig, model: str, change: Change
) -> model_server_config_pb2.ModelServerConfig:
    """A copy of the config with one model's labels changed, and just the labelled versions of it loaded.

    Raises:
        InputError: there is no such model, or what `change` raises, with file and model before it.
    """
    result = model_server_config_pb2.ModelServerConfig()
    result.CopyFrom(config)
    chosen = model_config(path, result, model)
    try:
        change(chosen)
    except InputError as error:
        raise InputError(f"{path}: model {model!r}: {error}") from None
    load(chosen, sorted(set(chosen.version_labels.values())))
    return result


def model_config(
    path: Path, config: model_server_config_pb2.ModelServerConfig, model: str
) -> model_server_config_pb2.ModelConfig:
    """The part of the config that is about one model.

    Raises:
        InputError: there is none of that name.
    """
    models = config.model_config_list.config
    for one in models:
        if one.name == model:
            return one
    raise InputError(f"{path}: found no model {model!r}; it has: {', '.join(one.name for one in models)}")


def load(model: model_server_config_pb2.ModelConfig, versions: list[int]) -> None:
    """Set the version policy to these versions."""
    model.model_version_policy.specific.Clear()
    model.model_version_policy.specific.versions.extend(versions)


def canary(version: int) -> Change:
    """Puts `version` under the label ``canary``."""

    def change(model: model_server_config_pb2.ModelConfig) -> None:
        _check_there(model, version)
        labels = model.version_labels
        if labels.get(STABLE) == version:
            raise InputError(f"version {version} is {STABLE} already; expected another one as {CANARY}")
        labels[CANARY] = version

    return change


def promote(version: int | None) -> Change:
    """Makes `version`, or without one the canary, ``stable``, and what was stable ``previous``."""

    def change(model: model_server_config_pb2.ModelConfig) -> None:
        labels = model.version_labels
        if version is None and CANARY not in labels:
            raise InputError(f"found no label {CANARY!r} to promote; expected one, or --version")
        new = labels[CANARY] if version is None else version
        _check_there(model, new)
        if labels.get(STABLE) == new:
            raise InputError(f"version {new} is {STABLE} already")
        if STABLE in labels:
            labels[PREVIOUS] = labels[STABLE]
        labels[STABLE] = new
        if labels.get(CANARY) == new:
            del labels[CANARY]

    return change


def rollback(model: model_server_config_pb2.ModelConfig) -> None:
    """Makes ``previous`` ``stable`` again; the version that was stable keeps no label."""
    labels = model.version_labels
    if PREVIOUS not in labels:
        raise InputError(f"found no label {PREVIOUS!r} to go back to; promote sets it")
    bad, labels[STABLE] = labels.get(STABLE), labels[PREVIOUS]
    del labels[PREVIOUS]
    if labels.get(CANARY) in (bad, labels[STABLE]):
        del labels[CANARY]


def _check_there(model: model_server_config_pb2.ModelConfig, version: int) -> None:
    if version < 1:
        raise InputError(f"version: expected at least 1, found {version}")
    base_path = Path(model.base_path)
    # The path is the server's; where it is not this machine's too, the server will say.
    if base_path.is_dir() and not (base_path / str(version)).is_dir():
        there = sorted(int(entry.name) for entry in base_path.iterdir() if entry.name.isdecimal())
        raise InputError(f"{base_path} has no version {version}; it has: {', '.join(map(str, there)) or 'none'}")
