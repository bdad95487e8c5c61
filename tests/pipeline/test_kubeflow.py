"""`twotower compile`: KFP's schema and SDK take the file, its steps are the local pipeline's, and they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from compiled_pipeline import CompiledPipeline
from google.protobuf import json_format
from kfp import components
from kfp.dsl.types import artifact_types
from kfp.dsl.utils import sanitize_task_name
from kfp.kubernetes import kubernetes_executor_config_pb2 as k8s_pb
from kfp.pipeline_spec import pipeline_spec_pb2 as pb
from test_splits_end_to_end import SPEC, events
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration.kubeflow.v2 import compiler_utils
from tfx.types import standard_artifacts
from tfx.utils import import_utils

from twotower.features import spec as specs
from twotower.pipeline import artifacts, cli, kubeflow_step, pipeline


def write_spec(folder: Path, **changes: Any) -> Path:
    """A spec whose volume is ``folder``; a change of None takes the key out."""
    choices = {
        "image": "registry.example.com/twotower:0.1.0",
        "pipeline_root": "minio://mlpipeline/twotower",
        "spec_folder": str(folder),
        "out": str(folder / "out"),
        "volumes": [{"claim": "shop", "path": str(folder)}],
        "resources": {"cpu_request": "500m", "memory_limit": "8Gi"},
        "retries": 1,
        "secrets": [
            {"secret": "warehouse", "key": "password", "env": "WAREHOUSE_PASSWORD"},
            {"secret": "certificates", "path": "/etc/certificates"},
        ],
        "steps": {
            "Trainer.ranking": {"resources": {"cpu_limit": "4", "accelerator": "nvidia.com/gpu"}, "retries": 3},
            "Pusher": {"retries": 0},
        },
    } | changes
    kubeflow = {key: value for key, value in choices.items() if value is not None}
    file = folder / "spec.yaml"
    file.write_text(yaml.safe_dump({**SPEC, "split": {"kind": "leave_last_out"}, "kubeflow": kubeflow}))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a compiled pipeline; the tables are not there yet."""
    folder = tmp_path_factory.mktemp("kubeflow")
    assert cli.main(["compile", "--spec", str(write_spec(folder)), "--out", str(folder / "pipeline.yaml")]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["pipeline.yaml", "spec.yaml"]
    return folder


@pytest.fixture(scope="module")
def compiled(folder: Path) -> CompiledPipeline:
    return CompiledPipeline(folder / "pipeline.yaml", str(folder / "artifacts"), folder / "said")


@pytest.fixture(scope="module")
def local(folder: Path) -> dict[str, BaseComponent]:
    """The steps of a local run of the same spec, by their name on Kubeflow."""
    built = pipeline.build(specs.load(folder / "spec.yaml"), folder / "out", "")
    return {sanitize_task_name(step.id): step for step in built.components}


def test_kfps_schema_and_sdk_take_it(folder: Path, compiled: CompiledPipeline) -> None:
    text = (folder / "pipeline.yaml").read_text()
    loaded = components.load_component_from_text(text)
    assert loaded.pipeline_spec == compiled.spec
    assert list(loaded.component_spec.inputs or {}) == ["tables"]
    with pytest.raises(json_format.ParseError, match="retryPolcy"):
        json_format.ParseDict({"root": {"dag": {"tasks": {"ingest": {"retryPolcy": {}}}}}}, pb.PipelineSpec())
    assert compiled.spec.schema_version == "2.1.0"
    assert compiled.spec.default_pipeline_root == "minio://mlpipeline/twotower"


def test_the_steps_are_the_local_pipelines(compiled: CompiledPipeline, local: dict[str, BaseComponent]) -> None:
    assert compiled.tasks.keys() == local.keys()
    for name, step in local.items():
        inputs = compiled.tasks[name].inputs
        sources = {
            key: (sanitize_task_name(channel.producer_component_id), channel.output_key)
            for key, channel in step.inputs.items()
        }
        found = {
            key: (given.task_output_artifact.producer_task, given.task_output_artifact.output_artifact_key)
            for key, given in inputs.artifacts.items()
        }
        assert found == sources
        parameters = {key: value for key, value in step.exec_properties.items() if value is not None}
        parameters.pop("fingerprint", None)
        given = {key: value.runtime_value.constant for key, value in inputs.parameters.items() if key != "fingerprint"}
        assert {key: getattr(value, str(value.WhichOneof("kind"))) for key, value in given.items()} == parameters
        upstream = {sanitize_task_name(other.id) for other in step.upstream_nodes}
        assert set(compiled.tasks[name].dependent_tasks) == upstream
        outputs = compiled.spec.components[compiled.tasks[name].component_ref.name].output_definitions.artifacts
        assert outputs.keys() == step.outputs.keys()
    assert "examplevalidator" in compiled.tasks["transform"].dependent_tasks
    assert sum("minio" in str(task) for task in compiled.tasks.values()) == 0


def test_each_step_is_in_the_package(compiled: CompiledPipeline, local: dict[str, BaseComponent]) -> None:
    for name, step in local.items():
        container = compiled.container(name)
        assert container.image == "registry.example.com/twotower:0.1.0"
        assert list(container.command) == ["python", "-m", "twotower.pipeline.kubeflow_step"]
        arguments = list(container.args)
        path = arguments[arguments.index("--executor_class_path") + 1]
        assert path.startswith(("tfx.", "twotower."))
        assert import_utils.import_class_by_path(path) is step.executor_spec.executor_class


def test_names_are_those_that_argo_takes(compiled: CompiledPipeline) -> None:
    for name in (compiled.spec.pipeline_info.name, *compiled.tasks):
        assert name.replace("-", "").isalnum()
        assert name == name.lower()


def test_resources_retries_and_caching(compiled: CompiledPipeline) -> None:
    assert {name: task.retry_policy.max_retry_count for name, task in compiled.tasks.items()} == {
        **dict.fromkeys(compiled.tasks, 1),
        "trainer-ranking": 3,
        "pusher": 0,
    }
    assert not any(task.caching_options.enable_cache for task in compiled.tasks.values())
    common = compiled.container("ingest").resources
    assert (common.resource_cpu_request, common.cpu_request) == ("500m", 0.5)
    assert (common.resource_memory_limit, common.memory_limit) == ("8Gi", pytest.approx(8.589934592))
    own = compiled.container("trainer-ranking").resources
    assert (own.resource_cpu_limit, own.resource_cpu_request) == ("4", "")
    assert (own.accelerator.resource_type, own.accelerator.resource_count) == ("nvidia.com/gpu", "1")


def test_every_pod_has_the_volumes_and_secrets(folder: Path, compiled: CompiledPipeline) -> None:
    json_format.ParseDict(compiled.platform, pb.PlatformSpec())
    pods = compiled.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert pods.keys() == compiled.executors.keys()
    for pod in pods.values():
        config = json_format.ParseDict(pod, k8s_pb.KubernetesExecutorConfig())
        assert [(mount.constant, mount.mount_path) for mount in config.pvc_mount] == [("shop", str(folder))]
        (variable,) = config.secret_as_env
        (key,) = variable.key_to_env
        assert (variable.secret_name, key.secret_key, key.env_var) == ("warehouse", "password", "WAREHOUSE_PASSWORD")
        (files,) = config.secret_as_volume
        assert (files.secret_name, files.mount_path) == ("certificates", "/etc/certificates")


def test_with_caching_the_run_names_the_tables_state(tmp_path: Path) -> None:
    spec = write_spec(tmp_path, caching=True, steps={"Pusher": {"caching": False}})
    assert cli.main(["compile", "--spec", str(spec), "--out", str(tmp_path / "p.yaml")]) == 0
    compiled = CompiledPipeline(tmp_path / "p.yaml", "", tmp_path)
    cached = {name for name, task in compiled.tasks.items() if task.caching_options.enable_cache}
    assert cached == compiled.tasks.keys() - {"pusher"}
    tables = compiled.spec.root.input_definitions.parameters["tables"]
    assert not tables.is_optional
    assert not tables.HasField("default_value")
    for task in compiled.tasks.values():
        assert task.inputs.parameters["fingerprint"].component_input_parameter == "tables"


@pytest.mark.slow
def test_the_compiled_steps_run(folder: Path, compiled: CompiledPipeline) -> None:
    assert compiled.order()[:2] == ["ingest", "statisticsgen"]
    events().to_csv(folder / "events.csv", index=False)
    for step in ("ingest", "statisticsgen"):
        done = compiled.run(step)
        assert done.returncode == 0, done.stderr
    counts = json.loads((folder / "artifacts" / "ingest" / "summary" / "counts.json").read_text())
    assert counts["interactions: rows read"] == len(events())
    examples = compiled.output("ingest", "examples")
    assert examples.uri == str(folder / "artifacts" / "ingest" / "examples")
    assert examples.metadata["payload_format"] == "FORMAT_TF_EXAMPLE"
    for split in ("train", "eval", "items"):
        assert (folder / "artifacts" / "statisticsgen" / "statistics" / f"Split-{split}" / "FeatureStats.pb").is_file()


def test_a_step_works_where_the_launcher_keeps_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_types, "_MINIO_LOCAL_MOUNT_PREFIX", f"{tmp_path}/minio/")
    given = pb.ExecutorInput()
    type_ = pb.ArtifactTypeSchema(instance_schema=compiler_utils.get_artifact_schema(standard_artifacts.Examples))
    lookup = pb.ArtifactTypeSchema(instance_schema=compiler_utils.get_artifact_schema(artifacts.Lookup))
    summary = pb.ArtifactTypeSchema(instance_schema=compiler_utils.get_artifact_schema(artifacts.Summary))
    for name, kind in (("examples", type_), ("lookup", lookup), ("summary", summary)):
        given.outputs.artifacts[name].artifacts.add(uri=f"minio://bucket/run/{name}", type=kind)
    spec = specs.load(write_spec(tmp_path))
    events().to_csv(tmp_path / "events.csv", index=False)
    parameters = given.inputs.parameter_values
    parameters["spec"].string_value = spec.model_dump_json(by_alias=True, exclude={"kubeflow": True})
    parameters["fingerprint"].string_value = ""
    given.outputs.output_file = str(tmp_path / "said" / "output.json")
    strings = {"parameters": {name: {"parameterType": "STRING"} for name in parameters}}
    status = kubeflow_step.main(
        [
            *("--executor_class_path", "twotower.pipeline.ingest_step.Ingest_Executor"),
            *("--json_serialized_invocation_args", json_format.MessageToJson(given)),
            *("--json_serialized_inputs_spec_args", json.dumps(strings)),
            "--direct_running_mode=in_memory",
        ]
    )
    assert status == 0
    assert (tmp_path / "minio" / "bucket" / "run" / "summary" / "counts.json").is_file()
    said = json_format.Parse((tmp_path / "said" / "output.json").read_text(), pb.ExecutorOutput())
    assert said.artifacts["lookup"].artifacts[0].uri == "minio://bucket/run/lookup"


def refused(capsys: pytest.CaptureFixture[str], spec: Path, out: Path) -> str:
    before = sorted(path.name for path in spec.parent.iterdir())
    assert cli.main(["compile", "--spec", str(spec), "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sorted(path.name for path in spec.parent.iterdir()) == before
    return line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "missing key 'kubeflow.image'"),
        ({"steps": {"Trainer.rank": {"retries": 1}}}, "unknown step 'kubeflow.steps.Trainer.rank': did you mean"),
        ({"steps": {"xyz": {}}}, "unknown step 'kubeflow.steps.xyz': expected one of Ingest, StatisticsGen"),
        ({"steps": {"Pusher": {"retry": 1}}}, "unknown key 'kubeflow.steps.Pusher.retry': did you mean 'retries'?"),
        ({"resources": {"cpu_limit": "four"}}, "key 'kubeflow.resources.cpu_limit': found 'four'"),
        ({"pipeline_root": "/mnt/shop"}, "key 'kubeflow.pipeline_root': found '/mnt/shop'"),
        ({"out": "/elsewhere"}, "out: found '/elsewhere', expected a folder on a volume: below"),
        ({"secrets": [{"secret": "s", "key": "k"}]}, "expected the keys 'key' and 'env'"),
    ],
)
def test_bad_choices(changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, write_spec(tmp_path, **changes), tmp_path / "p.yaml")


def test_every_artifact_type_of_ours_is_known_to_the_containers() -> None:
    own = {
        kind for kind in vars(artifacts).values() if isinstance(kind, type) and kind.__module__ == artifacts.__name__
    }
    assert set(artifacts.OWN) == own


def test_options_of_beam_reach_the_containers(tmp_path: Path) -> None:
    asked = ["compile", "--spec", str(write_spec(tmp_path)), "--out", str(tmp_path / "p.yaml")]
    assert cli.main([*asked, "--beam-runner", "flink", "--", "--flink_master=flink:8081", "--parallelism=4"]) == 0
    compiled = CompiledPipeline(tmp_path / "p.yaml", str(tmp_path), tmp_path / "said")
    for name in ("ingest", "statisticsgen", "transform", "evaluator"):
        executor = compiled.spec.components[compiled.tasks[name].component_ref.name].executor_label
        container = compiled.spec.deployment_spec["executors"][executor]["container"]
        assert {"--runner=FlinkRunner", "--flink_master=flink:8081", "--parallelism=4"} <= set(container["args"])


@pytest.mark.parametrize(
    ("key", "section"),
    [
        ("split", {"kind": "rolling", "test_days": 7}),
        ("retrieval", {"warm_start": True}),
        ("drift", {}),
        ("retention", {"runs": 2}),
    ],
)
def test_what_only_a_local_run_can_do_is_refused(
    key: str, section: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = write_spec(tmp_path)
    spec.write_text(yaml.safe_dump({**yaml.safe_load(spec.read_text()), key: section}))
    assert f"found '{key}" in refused(capsys, spec, tmp_path / "p.yaml")


def test_no_section_no_folder_no_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write_spec(tmp_path)
    assert "there is no folder" in refused(capsys, spec, tmp_path / "missing" / "p.yaml")
    assert "expected a file whose name ends in .yaml" in refused(capsys, spec, tmp_path / "p.json")
    spec.write_text(yaml.safe_dump({**SPEC, "split": {"kind": "leave_last_out"}}))
    assert "missing key 'kubeflow'" in refused(capsys, spec, tmp_path / "p.yaml")
