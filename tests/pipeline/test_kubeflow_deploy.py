"""The files of pipeline/deploy: hadolint and Kubernetes take them, and they fit the tree and the example's spec."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from twotower.features import spec as specs

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "pipeline" / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
HADOLINT = Path(sys.executable).with_name("hadolint")


def manifest(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text())
    return content


def lint(dockerfile: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HADOLINT, "-"], input=dockerfile, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing() -> None:
    done = lint((DEPLOY / "Dockerfile").read_text())
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_find_something() -> None:
    wrong = (DEPLOY / "Dockerfile").read_text().replace("python:3.11-slim-bookworm", "python")
    assert "DL3006" in lint(wrong).stdout


def test_the_image_holds_the_packages_and_no_more() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source.split("/")[0] for source in copied} == allowed
    # What bootstrap.sh reads, before the code.
    first = re.findall(r"^COPY (bootstrap.*)$", text, re.MULTILINE)[0].split()[:-1]
    assert {"bootstrap.sh", "requirements.lock", "setup.py", "README.md"} <= set(first)
    assert re.findall(r"^USER (\d+)$", text, re.MULTILINE) == re.findall(r"useradd --uid (\d+)", text)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
@pytest.mark.parametrize("version", ["1.27", "1.31", "1.37"])
def test_kubernetes_takes_the_manifest(path: Path, version: str) -> None:
    kubernetes_validate.validate(yaml.safe_load(path.read_text()), version, strict=True)


def test_the_manifests_name_each_other() -> None:
    content = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    assert sorted(DEPLOY / name for name in content["resources"]) == MANIFESTS
    account, role, binding = (manifest(name) for name in ("service-account", "role", "role-binding"))
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", role["metadata"]["name"])
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["name"]) == ("ServiceAccount", account["metadata"]["name"])
    assert subject["namespace"] == content["namespace"]


def test_nobody_may_do_everything() -> None:
    for rule in manifest("role")["rules"]:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert "secrets" not in rule["resources"] or rule["resourceNames"]


def test_the_example_mounts_the_claim() -> None:
    choices = specs.load(ROOT / "examples" / "complete_journey" / "spec.yaml").kubeflow
    assert choices is not None
    (volume,) = choices.volumes
    assert volume.claim == manifest("shop-claim")["metadata"]["name"]
