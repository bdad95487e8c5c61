"""`ModelServerConfig`, from a file or a HandleReloadConfigRequest, as models to serve and to log."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from twotower.serving.server.errors import ServingError, invalid_argument
from twotower.serving.server.manager import ModelConfig
from twotower.serving.server.versions import VersionPolicy

PLATFORM = "tensorflow"
LOG_TYPE = "tfrecord"


@dataclass(frozen=True)
class LogConfig:
    """Which share of a model's requests is logged, and where.

    Args:
        prefix: of the files' names, with their directory.
        rate: share of the requests, in [0, 1].
    """

    prefix: str
    rate: float


def models_of(config: Any) -> list[ModelConfig]:
    """The models of a `ModelServerConfig`.

    Raises:
        ServingError: INVALID_ARGUMENT, the configuration cannot be served; it says which model and field.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise invalid_argument("custom_model_config is not supported; expected model_config_list")
    models: dict[str, ModelConfig] = {}
    for entry in config.model_config_list.config:
        if not entry.name:
            raise invalid_argument("model_config_list: found a model without a name")
        if entry.name in models:
            raise invalid_argument(f"Illegal to list model {entry.name} multiple times in config list")
        if not entry.base_path:
            raise invalid_argument(f"model {entry.name}: base_path: empty; expected the directory of its versions")
        _check_platform(entry)
        models[entry.name] = ModelConfig(
            entry.name, entry.base_path, _policy_of(entry), dict(sorted(entry.version_labels.items()))
        )
    return list(models.values())


def logs_of(config: Any) -> Mapping[str, LogConfig]:
    """Model name to what is logged of it, for the models that have a `logging_config`.

    Raises:
        ServingError: INVALID_ARGUMENT, a field of it cannot be meant; it says which.
    """
    logs = {}
    for entry in config.model_config_list.config:
        if not entry.HasField("logging_config"):
            continue
        where = f"model {entry.name}: logging_config"
        collector = entry.logging_config.log_collector_config
        rate = entry.logging_config.sampling_config.sampling_rate
        if collector.type not in ("", LOG_TYPE):
            raise invalid_argument(
                f'{where}.log_collector_config.type: expected "{LOG_TYPE}", found "{collector.type}"'
            )
        if not collector.filename_prefix:
            raise invalid_argument(f"{where}.log_collector_config.filename_prefix: empty; expected a path")
        if not Path(collector.filename_prefix).parent.is_dir():
            raise invalid_argument(
                f"{where}.log_collector_config.filename_prefix: no directory {Path(collector.filename_prefix).parent}"
            )
        if not 0 <= rate <= 1:
            raise invalid_argument(f"{where}.sampling_config.sampling_rate: expected 0 to 1, found {rate}")
        logs[entry.name] = LogConfig(collector.filename_prefix, rate)
    return logs


def _check_platform(entry: Any) -> None:
    if entry.model_type and entry.model_platform:
        raise invalid_argument(
            "Illegal setting both ModelServerConfig::model_type(deprecated) and ModelServerConfig::model_platform."
        )
    if not entry.model_type and not entry.model_platform:
        raise invalid_argument(
            "Illegal setting neither ModelServerConfig::model_type(deprecated) nor ModelServerConfig::model_platform."
        )
    platform = entry.model_platform or (PLATFORM if entry.model_type == 1 else "other")
    if platform != PLATFORM:
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION, f"PlatformConfigMap has no entry for platform {platform}"
        )


def _policy_of(entry: Any) -> VersionPolicy:
    policy = entry.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return VersionPolicy("all")
    if choice == "specific":
        if not policy.specific.versions:
            raise invalid_argument(
                f"model {entry.name}: model_version_policy.specific: no versions; expected at least one"
            )
        return VersionPolicy("specific", numbers=frozenset(policy.specific.versions))
    return VersionPolicy("latest", count=policy.latest.num_versions or 1)
