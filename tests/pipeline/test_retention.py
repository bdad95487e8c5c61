"""Retention of pushed versions: the newest ones stay, and those that a model config file names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from twotower.features.errors import InputError
from twotower.features.spec import Spec
from twotower.pipeline import retention
from twotower.pipeline.pipeline import pushed_folders

CONFIG = """
model_config_list {
  config {
    name: "recommender" base_path: "/models/recommender" model_platform: "tensorflow"
    model_version_policy { specific { versions: 10 versions: 30 } }
    version_labels { key: "stable" value: 30 }
    version_labels { key: "previous" value: 20 }
  }
}
"""


def spec_of(**kept: Any) -> Spec:
    return Spec.model_validate(
        {
            "name": "shop",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": "2024-01-01"},
            "serving": {"shape": "two_stage"},
            "retention": kept,
        }
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Five versions of each servable, and a copy that is not complete."""
    for folder in pushed_folders(spec_of(), tmp_path).values():
        for version in ("9", "10", "20", "30", "100", ".200.partial"):
            (Path(folder) / version).mkdir(parents=True)
            (Path(folder) / version / "saved_model.pb").write_bytes(b"model")
    return tmp_path


def versions(out: Path) -> dict[str, set[str]]:
    return {folder.name: {path.name for path in folder.iterdir()} for folder in (out / "serving").iterdir()}


def test_the_newest_versions_of_each_servable_are_kept(out: Path) -> None:
    assert list(retention.apply(spec_of(versions=2), out)) == ["retention: deleted versions 9, 10, 20"]
    assert len(versions(out)) == 3
    assert set(map(frozenset, versions(out).values())) == {frozenset({"30", "100", ".200.partial"})}
    assert not (out / ".retired").exists()


def test_what_a_config_file_names_is_kept(out: Path) -> None:
    (out / "models.config").write_text(CONFIG)
    said = list(retention.apply(spec_of(versions=1, config_file=str(out / "models.config")), out))
    assert said == ["retention: deleted version 9"]
    assert {"10", "20", "30", "100"} <= versions(out)["recommender_ranking"]


def test_without_a_number_nothing_goes(out: Path) -> None:
    before = versions(out)
    assert list(retention.apply(spec_of(), out)) == []
    assert list(retention.apply(spec_of(versions=5), out)) == []
    assert versions(out) == before


def test_a_bad_config_file_deletes_nothing(out: Path) -> None:
    before = versions(out)
    with pytest.raises(InputError, match=r"models\.config: cannot read the model config file"):
        list(retention.apply(spec_of(versions=1, config_file=str(out / "models.config")), out))
    assert versions(out) == before


def test_what_a_killed_run_left_is_cleared_up(out: Path) -> None:
    retention.retire(out / "serving" / "recommender_ranking" / "9", out / ".retired")
    assert (out / ".retired").is_dir()
    list(retention.apply(spec_of(), out))
    assert not (out / ".retired").exists()
