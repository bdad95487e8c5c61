"""How the pipeline runs on Kubeflow Pipelines: image, folders inside the containers, resources, retries and secrets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated

import pydantic
from pydantic import Field

from twotower.features.section import Positive, Section

Text = Annotated[str, Field(min_length=1)]
# Kubernetes' own spellings: half a core is 0.5 or 500m.
Cpu = Annotated[str, Field(pattern=r"^([0-9]*\.)?[0-9]+m?$")]
Memory = Annotated[str, Field(pattern=r"^[0-9]+([KMGTPE]i?)?$")]
# Inside the containers.
Folder = Annotated[str, Field(pattern=r"^/")]


class Resources(Section):
    """What a step's container asks for and may use at most; what is not given is the cluster's choice."""

    cpu_request: Cpu | None = None
    cpu_limit: Cpu | None = None
    memory_request: Memory | None = None
    memory_limit: Memory | None = None
    accelerator: Text | None = None
    accelerator_count: Positive = 1


class KubeflowStep(Section):
    """What one step has instead of what all steps have."""

    resources: Resources | None = None
    retries: int | None = Field(None, ge=0)
    caching: bool | None = None


class Volume(Section):
    """A persistent volume claim, mounted at the same path in every step."""

    claim: Text
    path: Folder


class Secret(Section):
    """A Kubernetes secret in every step: one key of it as an environment variable, or all of it as files."""

    secret: Text
    key: Text | None = None
    env: Text | None = None
    path: Folder | None = None

    @pydantic.model_validator(mode="after")
    def _variable_or_files(self) -> Secret:
        if (self.key is None) != (self.env is None) or (self.env is None) == (self.path is None):
            raise ValueError("expected the keys 'key' and 'env' (a variable), or the key 'path' (files), not both")
        return self


class Kubeflow(Section):
    """How ``twotower compile`` lays the pipeline out for Kubeflow Pipelines v2."""

    image: Text
    # What Kubeflow's launcher copies to and from the steps; it knows no other stores.
    pipeline_root: Annotated[str, Field(pattern=r"^(minio|s3|gs)://.")]
    spec_folder: Folder
    out: Folder
    volumes: tuple[Volume, ...] = Field(min_length=1)
    resources: Resources = Resources()
    retries: int = Field(0, ge=0)
    caching: bool = False
    secrets: tuple[Secret, ...] = ()
    steps: Mapping[str, KubeflowStep] = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _pushed_models_stay(self) -> Kubeflow:
        paths = [volume.path for volume in self.volumes]
        if not any(PurePosixPath(self.out).is_relative_to(path) for path in paths):
            raise ValueError(f"out: found '{self.out}', expected a folder on a volume: below {' or '.join(paths)}")
        return self
