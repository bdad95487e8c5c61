"""The files of serving/deploy: TensorFlow Serving, Kubernetes and Compose read them, and they fit together."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec import PyCompose
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from twotower_client import CanarySplit

DEPLOY = Path(__file__).parents[2] / "serving" / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
# tensorflow_serving/config/monitoring_config.proto; the Python package of TensorFlow Serving's API leaves it out.
MONITORING = """syntax = "proto3"; package tensorflow.serving;
message PrometheusConfig { bool enable = 1; string path = 2; }
message MonitoringConfig { PrometheusConfig prometheus_config = 1; }
"""
SERVED_FLAGS = {
    "--port",
    "--rest_api_port",
    "--model_config_file",
    "--model_config_file_poll_wait_seconds",
    "--monitoring_config_file",
    "--allow_version_labels_for_unavailable_models",
}


def manifest(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())
    return content


def model() -> model_server_config_pb2.ModelConfig:
    text = (DEPLOY / "models.config").read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (only,) = config.model_config_list.config
    return only


def compose(text: str) -> dict[str, Any]:
    """The service of a compose file, its variable filled in as Compose does before it reads the rest."""
    filled = re.sub(r"\$\{MODELS:\?[^}:]+\}", "./models", text)
    service: dict[str, Any] = PyCompose.from_yaml(filled).to_dict()["services"]["model-server"]
    return service


def container() -> dict[str, Any]:
    found: dict[str, Any] = manifest("deployment")["spec"]["template"]["spec"]["containers"][0]
    return found


def test_the_model_config_labels_what_it_loads() -> None:
    config = model()
    assert (config.name, Path(config.base_path).name) == ("recommender", "recommender_portable")
    assert config.version_labels["stable"] in config.model_version_policy.specific.versions
    assert set(config.version_labels.values()) <= set(config.model_version_policy.specific.versions)


def test_the_labels_are_those_that_the_client_asks_for() -> None:
    from twotower.pipeline import model_config

    assert (CanarySplit(0).label("u"), CanarySplit(100).label("u")) == (model_config.STABLE, model_config.CANARY)


def test_the_monitoring_config_is_one(tmp_path: Path) -> None:
    (tmp_path / "monitoring_config.proto").write_text(MONITORING)
    encode = ["-m", "grpc_tools.protoc", f"-I{tmp_path}", "--encode=tensorflow.serving.MonitoringConfig"]
    done = subprocess.run(
        [sys.executable, *encode, "monitoring_config.proto"],
        input=(DEPLOY / "monitoring.config").read_bytes(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"/monitoring/prometheus/metrics" in done.stdout


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("version", ["1.27", "1.31", "1.37"])
def test_kubernetes_takes_the_manifest(path: Path, version: str) -> None:
    kubernetes_validate.validate(yaml.safe_load(path.read_text()), version, strict=True)


def test_a_misspelt_key_in_a_manifest_would_be_seen() -> None:
    wrong = manifest("deployment")
    wrong["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_the_kustomization_names_every_file() -> None:
    content = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    assert sorted(DEPLOY / name for name in content["resources"]) == MANIFESTS
    (generated,) = content["configMapGenerator"]
    assert all((DEPLOY / name).is_file() for name in generated["files"])
    (mounted,) = (
        volume["configMap"]["name"]
        for volume in manifest("deployment")["spec"]["template"]["spec"]["volumes"]
        if "configMap" in volume
    )
    assert mounted == generated["name"]


def test_the_manifests_name_each_other() -> None:
    deployment = manifest("deployment")
    name = deployment["metadata"]["name"]
    pod_labels = deployment["spec"]["template"]["metadata"]["labels"]
    service, budget, autoscaler = (manifest(one) for one in ("service", "disruption-budget", "autoscaler"))
    assert deployment["spec"]["selector"]["matchLabels"] == pod_labels
    assert service["spec"]["selector"] == pod_labels
    assert service["spec"]["clusterIP"] == "None"
    assert budget["spec"]["selector"]["matchLabels"] == pod_labels
    assert autoscaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        (asked,) = (container()[probe][how] for how in ("httpGet", "tcpSocket") if how in container()[probe])
        assert asked["port"] in ports
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in deployment["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == [manifest("models-claim")["metadata"]["name"]]


def test_the_probes_ask_for_a_label_of_the_model() -> None:
    config = model()
    for probe in ("startupProbe", "readinessProbe"):
        path = container()[probe]["httpGet"]["path"]
        found = re.fullmatch(r"/v1/models/(\w+)/labels/(\w+)/metadata", path)
        assert found is not None
        assert (found[1], found[2] in config.version_labels) == (config.name, True)


def test_both_ways_start_the_server_alike() -> None:
    service = compose((DEPLOY / "compose.yaml").read_text())
    assert service["image"] == container()["image"]
    assert service["entrypoint"] == container()["command"]
    assert service["command"] == container()["args"]
    flags = dict(flag.split("=", 1) for flag in service["command"])
    assert flags.keys() == SERVED_FLAGS
    for flag in ("--model_config_file", "--monitoring_config_file"):
        folder, file = flags[flag].rsplit("/", 1)
        assert (DEPLOY / file).is_file()
        assert folder in {mount["mountPath"] for mount in container()["volumeMounts"]}
        assert any(f":{folder}:" in volume for volume in service["volumes"])
    assert any(":/models:" in volume for volume in service["volumes"])
    assert model().base_path.startswith("/models/")


def test_a_misspelt_key_in_the_compose_file_would_be_seen() -> None:
    with pytest.raises(ValueError, match="entripoint"):
        compose((DEPLOY / "compose.yaml").read_text().replace("entrypoint", "entripoint"))
