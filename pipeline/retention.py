"""Retention: what earlier runs left goes, once a run is done: old pushed versions, and old runs' artifacts.

A folder is renamed before it is deleted, so that nobody ever sees half of it. An artifact is marked DELETED in the
metadata first, so that the cache never answers with what is gone, even if we are killed in between.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata

from twotower.features.spec import Spec
from twotower.pipeline import model_config, servable_folders
from twotower.pipeline.pipeline import pushed_folders

TRASH = ".retired"
OUTPUTS = (metadata_store_pb2.Event.OUTPUT,)
# A resolver's are internal ones.
EVERY = tuple(metadata_store_pb2.Event.Type.values())


def apply(spec: Spec, out: Path) -> Iterator[str]:
    """Delete what ``spec.retention`` no longer keeps; a line for a person of each kind of thing that went.

    Raises:
        InputError: the model config file cannot be read; nothing is deleted then.
    """
    chosen = spec.retention
    named: set[int] = set()
    if chosen.config_file is not None:
        named = named_versions(Path(chosen.config_file))
    trash = out / TRASH
    shutil.rmtree(trash, ignore_errors=True)
    if chosen.versions is not None:
        gone = [
            retire(version, trash)
            for folder in map(Path, pushed_folders(spec, out).values())
            for version in old_versions(folder, chosen.versions, named)
        ]
        if gone:
            versions = sorted({int(folder.name) for folder in gone})
            yield f"retention: deleted version{'s' * (len(versions) > 1)} {', '.join(map(str, versions))}"
    if chosen.runs is not None:
        folders = list(_old_artifacts(spec, out, chosen.runs))
        freed = sum(_size(folder) for folder in folders)
        for folder in folders:
            retire(folder, trash)
        if folders:
            yield f"retention: deleted {len(folders)} artifacts of earlier runs, {freed / 1e6:,.1f} MB"
    shutil.rmtree(trash, ignore_errors=True)


def named_versions(config_file: Path) -> set[int]:
    """Every version that a model config file names, for any model: by a label, or as one to load."""
    found: set[int] = set()
    for model in model_config.read(config_file).model_config_list.config:
        found |= set(model.version_labels.values()) | set(model.model_version_policy.specific.versions)
    return found


def old_versions(folder: Path, keep: int, named: set[int]) -> list[Path]:
    """The versions of a servable behind the newest ``keep``, but for those that are named."""
    return [path for path in servable_folders.versions(folder)[keep:] if int(path.name) not in named]


def retire(folder: Path, trash: Path) -> Path:
    """Take a folder out of sight at once; it is deleted with the ``trash``, on the same disk. Returns the folder."""
    trash.mkdir(exist_ok=True)
    folder.rename(Path(tempfile.mkdtemp(dir=trash), folder.name))
    return folder


def _old_artifacts(spec: Spec, out: Path, runs: int) -> Iterator[Path]:
    """Folders of artifacts that none of the kept runs made or read, marked DELETED.

    Kept are the last ``runs`` runs, and the last one that was blessed: a warm start goes on from it.
    """
    config = metadata.sqlite_metadata_connection_config(str(out / "metadata.sqlite"))
    with metadata.Metadata(config) as handle:
        store = handle.store
        # Other pipelines may have run in the same folder.
        by_run = _executions(store, spec.name)
        made = _touched(store, (one for found in by_run for one in found), OUTPUTS)
        newest_first = sorted(by_run, key=lambda found: -max(found))
        blessed = next((found for found in newest_first if _blessed(store, found)), [])
        kept = _touched(store, {one for found in (*newest_first[:runs], blessed) for one in found})
        for artifact in store.get_artifacts_by_id(sorted(made - kept)):
            if artifact.state == metadata_store_pb2.Artifact.LIVE:
                artifact.state = metadata_store_pb2.Artifact.DELETED
                store.put_artifacts([artifact])
            folder = Path(artifact.uri)
            if artifact.state == metadata_store_pb2.Artifact.DELETED and folder.is_dir():
                yield folder


def _executions(store: object, name: str) -> list[list[int]]:
    """The executions of each run of a pipeline, those that the cache answered too."""
    [pipeline] = [one for one in store.get_contexts_by_type("pipeline") if one.name == name]  # type: ignore[attr-defined]
    own = {execution.id for execution in store.get_executions_by_context(pipeline.id)}  # type: ignore[attr-defined]
    runs = []
    for context in store.get_contexts_by_type("pipeline_run"):  # type: ignore[attr-defined]
        found = [one.id for one in store.get_executions_by_context(context.id)]  # type: ignore[attr-defined]
        if own.intersection(found):
            runs.append(found)
    return runs


def _blessed(store: object, executions: list[int]) -> bool:
    """Whether a run's models were blessed, and so pushed: TFX's Pusher leaves this property on what it pushed."""
    found = store.get_artifacts_by_id(sorted(_touched(store, executions, OUTPUTS)))  # type: ignore[attr-defined]
    return any(one.custom_properties["pushed"].int_value for one in found if "pushed" in one.custom_properties)


def _touched(store: object, executions: Iterable[int], kinds: Container[int] = EVERY) -> set[int]:
    """Ids of the artifacts of these executions' events."""
    events = store.get_events_by_execution_ids(list(executions))  # type: ignore[attr-defined]
    return {event.artifact_id for event in events if event.type in kinds}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
