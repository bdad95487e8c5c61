"""The sections of a spec for the run that is repeated: a window that rolls with the data, drift, and retention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from twotower.features.section import Column, Positive, Section


class RollingSplit(Section):
    """The last days of the data are the test, and the days before them what is trained on.

    ``window.resolved`` makes a ``TimeSplit`` of it before anything else reads it.
    """

    kind: Literal["rolling"]
    test_days: Positive
    train_days: Positive | None = None


class Drift(Section):
    """How far a run's data may differ from the last blessed run's, and from what a server was asked."""

    on_drift: Literal["warn", "stop"] = "warn"
    threshold: float = Field(0.1, ge=0, le=1)
    thresholds: Mapping[Column, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    serving_logs: str | None = Field(None, min_length=1)


class Retention(Section):
    """How much of what earlier runs left is kept; without a number, all of it."""

    versions: Positive | None = None
    runs: Positive | None = None
    config_file: str | None = Field(None, min_length=1)
