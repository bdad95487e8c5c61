"""The entry point of a step's container: TFX's own, with the artifacts where Kubeflow's launcher keeps them.

The launcher copies a step's inputs from the bucket to a local folder each, and its outputs from there to the bucket.
TFX alone would read and write the bucket's addresses as paths.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from google.protobuf import json_format
from kfp.dsl import Artifact
from kfp.pipeline_spec import pipeline_spec_pb2 as pb
from tfx.orchestration.kubeflow.v2 import compiler_utils

from twotower.pipeline import artifacts

TFX = "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"
INPUT = "--json_serialized_invocation_args"


def main(argv: Sequence[str]) -> int:
    """Run the step that the arguments describe, those of TFX's entry point; returns the exit status."""
    place = argv.index(INPUT) + 1
    given = json_format.Parse(argv[place], pb.ExecutorInput(), ignore_unknown_fields=True)
    remote = _make_local(given)
    status = _run([*argv[:place], json_format.MessageToJson(given), *argv[place + 1 :]])
    if not status:
        _restore(Path(given.outputs.output_file), remote)
    return status


def _make_local(given: pb.ExecutorInput) -> dict[str, str]:
    """Replace every address by the local path, where outputs get their folder; returns addresses by output."""
    remote = {name: found.artifacts[0].uri for name, found in given.outputs.artifacts.items()}
    for artifact in (*_artifacts(given.inputs.artifacts), *_artifacts(given.outputs.artifacts)):
        # Kubeflow leaves the name out, from which TFX's Evaluator makes the model's id.
        artifact.name = artifact.name or artifact.uri
        artifact.uri = Artifact(uri=artifact.uri).path
    for artifact in _artifacts(given.outputs.artifacts):
        Path(artifact.uri).mkdir(parents=True, exist_ok=True)
    return remote


def _run(arguments: Sequence[str]) -> int:
    """TFX's entry point, as if it were the program; returns its exit status."""
    for kind in artifacts.OWN:
        # TFX looks for a class under its artifact's type, which has to be shorter than our module's name.
        compiler_utils.TITLE_TO_CLASS_PATH[kind.TYPE_NAME] = f"{kind.__module__}.{kind.__name__}"
    sys.argv = [TFX, *arguments]
    try:
        runpy.run_module(TFX, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def _restore(file: Path, remote: Mapping[str, str]) -> None:
    """Put the addresses back into what the step says of its outputs."""
    said = json_format.Parse(file.read_text(encoding="utf-8"), pb.ExecutorOutput())
    for name, uri in remote.items():
        for artifact in said.artifacts[name].artifacts:
            artifact.uri = uri
    file.write_text(json_format.MessageToJson(said), encoding="utf-8")


def _artifacts(lists: Mapping[str, pb.ArtifactList]) -> Iterable[pb.RuntimeArtifact]:
    return (artifact for found in lists.values() for artifact in found.artifacts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
