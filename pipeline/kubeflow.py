"""``twotower compile``: the pipeline as a file for Kubeflow Pipelines v2, of the same components as a local run."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from kfp.compiler import pipeline_spec_builder
from kfp.dsl import structures
from kfp.dsl.utils import sanitize_task_name
from kfp.kubernetes import kubernetes_executor_config_pb2 as k8s_pb
from kfp.pipeline_spec import pipeline_spec_pb2 as pb
from kubernetes.utils import parse_quantity
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner
from tfx.orchestration.pipeline import Pipeline

from twotower.features import spec as specs
from twotower.features.continuous import Retention, RollingSplit
from twotower.features.errors import InputError
from twotower.features.kubeflow_choices import Kubeflow, KubeflowStep, Resources
from twotower.features.model_choices import TwoTower
from twotower.pipeline import pipeline
from twotower.pipeline.beam_options import beam_args

COMMAND = ("python", "-m", "twotower.pipeline.kubeflow_step")
# The run's parameter that names the state of the tables.
TABLES = "tables"
_FINGERPRINT = "fingerprint"


def compile_spec(spec_path: Path, out: Path, beam_runner: str | None, beam_flags: Sequence[str]) -> None:
    """Write the pipeline of the spec to ``out``, a YAML file.

    The tables need not be here: the spec's relative paths are taken to start from its ``kubeflow.spec_folder``.
    Beam's steps run on ``beam_runner`` with its options (see ``beam_options.beam_args``).

    Raises:
        InputError: the spec is bad, has no section ``kubeflow`` or names an unknown step, or the file cannot be
            written; nothing is written then.
    """
    choices = specs.load(spec_path).kubeflow
    if choices is None:
        raise InputError(
            f"{spec_path}: missing key 'kubeflow': expected the section that says which image the steps run in"
        )
    if out.suffix not in {".yaml", ".yml"}:
        raise InputError(f"{out}: expected a file whose name ends in .yaml")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: cannot be written: there is no folder {out.absolute().parent}")
    spec = specs.load(spec_path, base=Path(choices.spec_folder))
    _check_continuous(spec_path, spec)
    # Each step has a name of the caller's in its input instead.
    built = pipeline.build(spec, Path(choices.out), "", beam_args(beam_runner, beam_flags))
    names = {step.id: sanitize_task_name(step.id) for step in built.components}
    _check_steps(spec_path, choices, names)
    compiled = _compile(built, choices, names)
    platforms = pb.PlatformSpec()
    for step, name in names.items():
        executor = compiled.components[name].executor_label
        _refine(compiled, name, executor, choices, choices.steps.get(step, KubeflowStep()))
        pod = platforms.platforms["kubernetes"].deployment_spec.executors[executor]
        pod.update(json_format.MessageToDict(_kubernetes(choices)))
    _write(compiled, spec, platforms, out)


def _check_continuous(spec_path: Path, spec: specs.Spec) -> None:
    """Refuse what a local run does by reading the tables first, or by what it knows of the runs before it."""
    found = {
        "split.kind: rolling": isinstance(spec.split, RollingSplit),
        "retrieval.warm_start": isinstance(spec.retrieval, TwoTower) and spec.retrieval.warm_start,
        "drift": spec.drift is not None,
        "retention": spec.retention != Retention(),
    }
    for key, is_there in found.items():
        if is_there:
            raise InputError(
                f"{spec_path}: found '{key}', which is for 'twotower run' alone; expected a spec without it"
            )


def _check_steps(spec_path: Path, choices: Kubeflow, known: Collection[str]) -> None:
    for step in choices.steps:
        if step not in known:
            near = difflib.get_close_matches(step, known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
            raise InputError(f"{spec_path}: unknown step 'kubeflow.steps.{step}': {hint}")


def _compile(built: Pipeline, choices: Kubeflow, names: dict[str, str]) -> pb.PipelineSpec:
    """TFX's own compilation, under names that Kubeflow takes: Argo reads a dot as the end of a step's name."""
    for step in built.components:
        step.with_id(names[step.id])
    renamed = Pipeline(
        pipeline_name=sanitize_task_name(built.pipeline_info.pipeline_name),
        pipeline_root=choices.pipeline_root,
        components=built.components,
        dsl_context_registry=built.dsl_context_registry,
        beam_pipeline_args=built.beam_pipeline_args,
    )
    config = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
        default_image=choices.image, default_commands=list(COMMAND), use_pipeline_spec_2_1=True
    )
    job = kubeflow_v2_dag_runner.KubeflowV2DagRunner(config).run(renamed, write_out=False)
    compiled = json_format.ParseDict(job["pipelineSpec"], pb.PipelineSpec())
    compiled.default_pipeline_root = choices.pipeline_root
    # Kubeflow's cache knows an artifact by its name alone, and would answer with a step's outputs of other tables.
    tables = compiled.root.input_definitions.parameters[TABLES]
    tables.parameter_type = pb.ParameterType.STRING
    tables.description = "names the state of the tables; steps are answered from the cache under the same name alone"
    if not choices.caching and not any(step.caching for step in choices.steps.values()):
        tables.is_optional = True
        tables.default_value.string_value = ""
    return compiled


def _refine(compiled: pb.PipelineSpec, name: str, executor: str, choices: Kubeflow, own: KubeflowStep) -> None:
    """What TFX's compiler cannot say of a step: the tables' state, caching, retries and resources."""
    task = compiled.root.dag.tasks[name]
    compiled.components[name].input_definitions.parameters[_FINGERPRINT].parameter_type = pb.ParameterType.STRING
    task.inputs.parameters[_FINGERPRINT].Clear()
    task.inputs.parameters[_FINGERPRINT].component_input_parameter = TABLES
    task.caching_options.enable_cache = choices.caching if own.caching is None else own.caching
    retries = choices.retries if own.retries is None else own.retries
    if retries:
        task.retry_policy.CopyFrom(structures.RetryPolicy(max_retry_count=retries).to_proto())
    resources = _resources(own.resources or choices.resources)
    compiled.deployment_spec["executors"][executor]["container"]["resources"] = json_format.MessageToDict(resources)


def _resources(chosen: Resources) -> pb.PipelineDeploymentConfig.PipelineContainerSpec.ResourceSpec:
    """Both as text and as the numbers (cores, 10^9 bytes) that older backends read, as KFP's own compiler does."""
    found = pb.PipelineDeploymentConfig.PipelineContainerSpec.ResourceSpec()
    for key, unit in (("cpu_request", 1), ("cpu_limit", 1), ("memory_request", 10**9), ("memory_limit", 10**9)):
        quantity = getattr(chosen, key)
        if quantity is not None:
            setattr(found, f"resource_{key}", quantity)
            setattr(found, key, float(parse_quantity(quantity) / unit))
    if chosen.accelerator is not None:
        found.accelerator.resource_type = found.accelerator.type = chosen.accelerator
        found.accelerator.resource_count = str(chosen.accelerator_count)
        found.accelerator.count = chosen.accelerator_count
    return found


def _kubernetes(choices: Kubeflow) -> k8s_pb.KubernetesExecutorConfig:
    """The volumes and secrets of a step's pod; each name as a constant too, for older backends."""
    found = k8s_pb.KubernetesExecutorConfig()
    for volume in choices.volumes:
        mount = found.pvc_mount.add(mount_path=volume.path, constant=volume.claim)
        mount.pvc_name_parameter.runtime_value.constant.string_value = volume.claim
    for secret in choices.secrets:
        named: Any
        if secret.path is None:
            named = found.secret_as_env.add(secret_name=secret.secret)
            named.key_to_env.add(secret_key=secret.key, env_var=secret.env)
        else:
            named = found.secret_as_volume.add(secret_name=secret.secret, mount_path=secret.path)
        named.secret_name_parameter.runtime_value.constant.string_value = secret.secret
    return found


def _write(compiled: pb.PipelineSpec, spec: specs.Spec, platforms: pb.PlatformSpec, out: Path) -> None:
    partial = out.with_name(f".{out.name}.partial.yaml")
    try:
        description = f"The pipeline of the shop {spec.name}."
        pipeline_spec_builder.write_pipeline_spec_to_file(compiled, description, platforms, str(partial))
        partial.rename(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{out}: cannot be written: {error.strerror}") from None
