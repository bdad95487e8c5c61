"""``twotower canary``, ``promote`` and ``rollback``: move the labels in a model config file, and tell the servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from twotower.pipeline import model_config
from twotower.pipeline.model_config import Change


def canary(path: Path, model: str, version: int, servers: Sequence[str]) -> int:
    """Put a version on trial; see `model_config.canary`."""
    return _move(path, model, model_config.canary(version), servers)


def promote(path: Path, model: str, version: int | None, servers: Sequence[str]) -> int:
    """Make a version the stable one; see `model_config.promote`."""
    return _move(path, model, model_config.promote(version), servers)


def rollback(path: Path, model: str, servers: Sequence[str]) -> int:
    """Return to the previous version; see `model_config.rollback`."""
    return _move(path, model, model_config.rollback, servers)


def _move(path: Path, model: str, change: Change, servers: Sequence[str]) -> int:
    """Change the file once the servers have taken the change; where one refuses, the file stays as it was.

    Raises:
        InputError: the file, the change or a server is at fault.
    """
    old = model_config.read(path)
    new = model_config.changed(path, old, model, change)
    states = []
    with model_config.replaced(path, new):
        if servers:
            from twotower.pipeline.reload import reload

            states = reload(servers, path, model, old, new)
    labels = model_config.model_config(path, new, model).version_labels
    listed = ", ".join(f"{label} {labels[label]}" for label in sorted(labels, key=lambda one: (-labels[one], one)))
    print(f"{path}: {model}: {listed}")
    for state in states:
        print(f"{state.server}: version {state.version} {state.state}")
    return 0
