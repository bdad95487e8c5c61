"""Runs the steps of a compiled pipeline here, each as its own command line says, in Kubeflow's place.

A whole pipeline, from the project's folder (its spec's volumes being folders of this machine):

    python tests/pipeline/compiled_pipeline.py pipeline.yaml minio://bucket/run FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format, struct_pb2
from kfp.local import graph_utils
from kfp.pipeline_spec import pipeline_spec_pb2 as pb


class CompiledPipeline:
    """Argo's, the driver's and, where ``root`` is a folder or the buckets' local paths are shared, the launcher's work.

    Args:
        file: what ``twotower compile`` wrote.
        root: where the artifacts go.
        folder: for what the steps say of their outputs.
        tables: the run's parameter of that name.
    """

    def __init__(self, file: Path, root: str, folder: Path, tables: str = "") -> None:
        document, self.platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
        self.spec = json_format.ParseDict(document, pb.PipelineSpec())
        config = pb.PipelineDeploymentConfig()
        self.executors = json_format.ParseDict(json_format.MessageToDict(self.spec.deployment_spec), config).executors
        self.tasks = self.spec.root.dag.tasks
        self.root, self.folder, self.tables = root, folder, tables

    def order(self) -> list[str]:
        """The steps, each after those that it depends on."""
        return list(reversed(graph_utils.topological_sort_tasks(self.tasks)))

    def container(self, step: str) -> Any:
        """The step's container."""
        component = self.spec.components[self.tasks[step].component_ref.name]
        return self.executors[component.executor_label].container

    def run(self, step: str) -> subprocess.CompletedProcess[str]:
        """The step, whose inputs have to be there."""
        given = json_format.MessageToJson(self._input(step))
        container = self.container(step)
        arguments = [argument.replace("{{$}}", given) for argument in container.args]
        assert container.command[0] == "python"
        command = [sys.executable, *container.command[1:], *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def output(self, step: str, key: str) -> pb.RuntimeArtifact:
        """An artifact as the step described it, without a name, which Kubeflow does not keep."""
        said = json_format.Parse(self._said(step).read_text(encoding="utf-8"), pb.ExecutorOutput())
        artifact = said.artifacts[key].artifacts[0]
        definitions = self.spec.components[self.tasks[step].component_ref.name].output_definitions
        artifact.type.CopyFrom(definitions.artifacts[key].artifact_type)
        artifact.ClearField("name")
        return artifact

    def _input(self, step: str) -> pb.ExecutorInput:
        given = pb.ExecutorInput()
        for name, parameter in self.tasks[step].inputs.parameters.items():
            value = struct_pb2.Value(string_value=self.tables)
            if not parameter.component_input_parameter:
                value = parameter.runtime_value.constant
            given.inputs.parameter_values[name].CopyFrom(value)
        for name, source in self.tasks[step].inputs.artifacts.items():
            made = source.task_output_artifact
            given.inputs.artifacts[name].artifacts.append(self.output(made.producer_task, made.output_artifact_key))
        component = self.spec.components[self.tasks[step].component_ref.name]
        for name, definition in component.output_definitions.artifacts.items():
            uri = f"{self.root}/{step}/{name}"
            given.outputs.artifacts[name].artifacts.add(uri=uri, type=definition.artifact_type)
        given.outputs.output_file = str(self._said(step))
        return given

    def _said(self, step: str) -> Path:
        return self.folder / step / "output_metadata.json"


def main() -> int:
    file, root, folder = sys.argv[1:]
    pipeline = CompiledPipeline(Path(file), root, Path(folder))
    for step in pipeline.order():
        started = time.monotonic()
        done = pipeline.run(step)
        print(f"{step}: status {done.returncode} in {time.monotonic() - started:.0f} s", flush=True)
        if done.returncode:
            print(done.stdout[-2000:], done.stderr[-6000:], sep="\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
