"""Blessings as TFX's Pusher reads them, with the reason beside the flag."""

from __future__ import annotations

from pathlib import Path

from tfx.components.util import model_utils
from tfx.types import Artifact


def write(artifact: Artifact, blessed: bool, reason: str) -> None:
    """Mark a ModelBlessing or InfraBlessing artifact."""
    artifact.set_int_custom_property("blessed", int(blessed))
    Path(artifact.uri, "reason.txt").write_text(reason, encoding="utf-8")


def read(artifact: Artifact) -> tuple[bool, str]:
    """Whether it was blessed, and why; TFMA's own blessings carry no reason."""
    reason = Path(artifact.uri, "reason.txt")
    text = reason.read_text(encoding="utf-8") if reason.exists() else "the Evaluator's thresholds"
    return model_utils.is_model_blessed(artifact), text
