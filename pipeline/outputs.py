"""The artifacts of the last complete run, found in the metadata store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.types import Artifact, artifact_utils

from twotower.features.errors import InputError
from twotower.features.spec import Spec

_DONE = (metadata_store_pb2.Execution.COMPLETE, metadata_store_pb2.Execution.CACHED)


class Outputs:
    """Output artifacts by step and key, of each step's newest complete execution.

    Args:
        out: the run's folder.
        name: the pipeline's name; without it, that of the pipeline that ran last.

    Raises:
        InputError: there is no metadata store in ``out``.
    """

    def __init__(self, out: Path, name: str | None = None) -> None:
        database = out / "metadata.sqlite"
        if not database.is_file():
            raise InputError(
                f"{out}: no run is there (no {database.name}); expected the folder of 'twotower run --out'"
            )
        config = metadata.sqlite_metadata_connection_config(str(database))
        with metadata.Metadata(config) as handle:
            self._name = name or _last_name(handle.store)
            self._found, self._parameters = self._read(handle.store)

    def artifact(self, step: str, key: str) -> Artifact:
        """The artifact ``key`` of ``step``; raises InputError where that step never completed."""
        if (step, key) not in self._found:
            raise InputError(f"the step {step} of {self._name} has not completed: no output '{key}'")
        return self._found[step, key]

    def folder(self, step: str, key: str) -> Path:
        """The artifact's folder."""
        return Path(self.artifact(step, key).uri)

    def spec(self, step: str) -> Spec:
        """The spec that ``step`` was given, without the sections that it does not read; raises as ``artifact``."""
        if step not in self._parameters:
            raise InputError(f"the step {step} of {self._name} has not completed")
        return Spec.model_validate_json(self._parameters[step]["spec"].string_value)

    def _read(self, store: object) -> tuple[dict[tuple[str, str], Artifact], dict[str, Mapping[str, Any]]]:
        found: dict[tuple[str, str], Artifact] = {}
        parameters: dict[str, Mapping[str, Any]] = {}
        prefix = f"{self._name}."
        for context in store.get_contexts_by_type("node"):  # type: ignore[attr-defined]
            if not context.name.startswith(prefix):
                continue
            executions = store.get_executions_by_context(context.id)  # type: ignore[attr-defined]
            done = [e for e in executions if e.last_known_state in _DONE]
            if not done:
                continue
            newest = max(done, key=lambda execution: execution.id)
            parameters[context.name.removeprefix(prefix)] = newest.custom_properties
            events = store.get_events_by_execution_ids([newest.id])  # type: ignore[attr-defined]
            for event in events:
                if event.type == metadata_store_pb2.Event.OUTPUT:
                    [proto] = store.get_artifacts_by_id([event.artifact_id])  # type: ignore[attr-defined]
                    [kind] = store.get_artifact_types_by_id([proto.type_id])  # type: ignore[attr-defined]
                    key = next(step.key for step in event.path.steps if step.HasField("key"))
                    found[context.name.removeprefix(prefix), key] = artifact_utils.deserialize_artifact(kind, proto)
        return found, parameters


def _last_name(store: object) -> str:
    contexts = store.get_contexts_by_type("pipeline")  # type: ignore[attr-defined]
    newest = {
        context.name: max((e.id for e in store.get_executions_by_context(context.id)), default=0)  # type: ignore[attr-defined]
        for context in contexts
    }
    return max(newest, key=lambda name: newest[name], default="")
