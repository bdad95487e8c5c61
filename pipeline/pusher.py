"""TFX's Pusher, with both servables side by side and each version renamed into place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfx.components.pusher import component, executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils

from twotower.pipeline.servable_folders import versions
from twotower.serving import servable


class AtomicPushExecutor(executor.Executor):
    """Pushes every servable of the model artifact into a folder of its own, or none.

    The custom config names the folders: ``folders`` = {servable's name: folder of its versions}. A model server that
    watches a folder never sees a half-copied version.
    """

    def Do(self, input_dict: dict[str, Any], output_dict: dict[str, Any], exec_properties: dict[str, Any]) -> None:  # noqa: N802
        """See the base class."""
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        source = Path(artifact_utils.get_single_uri(input_dict["model"]))
        config = exec_properties["custom_config"]
        folders = (json.loads(config) if isinstance(config, str) else config)["folders"]
        version = push(source, {name: Path(folder) for name, folder in folders.items()})
        destination = next(reversed([Path(folder) for folder in folders.values()])) / version
        self._MarkPushed(pushed, pushed_destination=str(destination), pushed_version=version)


class AtomicPusher(component.Pusher):
    """TFX's Pusher with ``AtomicPushExecutor``."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(AtomicPushExecutor)


def push(source: Path, folders: Mapping[str, Path]) -> str:
    """Copy every servable in ``source`` to a version of its folder, all or none; returns the version.

    Args:
        source: one folder a servable.
        folders: of their versions by the servable's name, in the order in which they become visible.
    """
    version = str(servable.card(source / next(iter(folders)))["version"])
    staged = []
    try:
        for name, folder in folders.items():
            # A name that is no integer is no version to a model server.
            partial = folder / f".{version}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            staged.append(partial)
            shutil.copytree(source / name, partial)
    except OSError:
        for partial in staged:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    for partial in staged:
        final = partial.parent / version
        if final.exists():
            shutil.rmtree(partial)
        else:
            partial.rename(final)
    return version


def newest_version(folder: Path) -> Path | None:
    """The folder of the highest version, or None where there is none."""
    return next(iter(versions(folder)), None)
