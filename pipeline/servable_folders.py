"""The servables that are composed of a run's parts: which there are, and the folders of their versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from twotower.features.spec import Serving
from twotower.serving.index.build import Kind

# The indexes that each run builds.
KINDS: tuple[Kind, ...] = ("scann", "portable")
RANKING = "ranking"


def other_kind(serving: Serving) -> str:
    """The index that is pushed beside the one that ``serving.index`` names."""
    return next(kind for kind in KINDS if kind != serving.index)


def folders(serving: Serving) -> dict[str, str]:
    """The pushed folder's name of each composed servable, in the order in which they are pushed.

    The second stage comes first: a first stage never answers by a version that the second one was not given.
    """
    name, other = serving.model_name, other_kind(serving)
    if serving.shape == "composed":
        return {serving.index: name, other: f"{name}_{other}"}
    return {
        RANKING: f"{name}_ranking",
        serving.index: f"{name}_retrieval",
        other: f"{name}_retrieval_{other}",
    }


def versions(folder: Path) -> list[Path]:
    """The folders of a servable's versions, newest first; a name that is no integer is no version."""
    return sorted((path for path in folder.glob("*") if path.name.isdigit()), key=lambda path: -int(path.name))


def asked_of(serving: Serving, paths: Mapping[str, Path], index: str) -> list[Path]:
    """Of the servables' paths by name, those that answer together: one, or the first stage and the second."""
    return [paths[index], *([paths[RANKING]] if serving.shape == "two_stage" else [])]
