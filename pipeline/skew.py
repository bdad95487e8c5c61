"""``twotower skew``: what a server was asked, beside what the run was trained on."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from twotower.pipeline.console import quiet
from twotower.pipeline.lookup import day

if TYPE_CHECKING:
    from twotower.pipeline.skew_comparison import Asked
    from twotower.pipeline.skew_distances import Difference

SKEWED = 1
WIDTH = 120


def skew(logs: str, out: Path, thresholds: Sequence[str]) -> int:
    """Compare, print, and write ``out/skew.json``; returns the exit status: 0, or 1 where a threshold is passed.

    Args:
        logs: what the log files' paths begin with.
        out: the run's folder.
        thresholds: ``FEATURE=SHARE``, instead of the default ones.

    Raises:
        InputError: there is no file, record or statistic to compare, or a record or a threshold is bad.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(Path(folder, "log")) as terminal,
        terminal.status("comparing"),
    ):
        # Imported here, after the terminal is ours: TFX takes 20 seconds and says a lot.
        from twotower.pipeline.skew_comparison import compare

        asked, found = compare(logs, out, thresholds)
    _show(asked, found)
    (out / "skew.json").write_text(json.dumps(_summary(asked, found), indent=1), encoding="utf-8")
    return 0 if all(difference.passed for difference in found) else SKEWED


def _summary(asked: Asked, found: Sequence[Difference]) -> dict[str, object]:
    return {
        "files": [str(file) for file in asked.files],
        "written": asked.written,
        "requests": asked.requests,
        "queries": asked.queries,
        "users": len(asked.users),
        "other_records": asked.others,
        "versions": dict(asked.versions),
        "sampling_rates": sorted(asked.rates),
        "times": asked.times,
        "without_a_time": asked.timeless,
        "features": [asdict(difference) for difference in found],
    }


def _show(asked: Asked, found: Sequence[Difference]) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    others = f"; {asked.others:,} other records" if asked.others else ""
    say(f"{asked.requests:,} requests, {asked.queries:,} queries of {len(asked.users):,} users{others}")
    say(f"files: {len(asked.files):,}, written from {day(asked.written[0])} to {day(asked.written[1])}")
    say("answered by " + ", ".join(f"{name} ({count:,})" for name, count in sorted(asked.versions.items())))
    say("sampling rate " + ", ".join(f"{rate:g}" for rate in sorted(asked.rates)))
    span = "" if asked.times is None else f"times from {day(asked.times[0])} to {day(asked.times[1])}; "
    say(f"{span}{asked.timeless:,} queries without a time")
    table = Table(title="Training and serving", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("feature", "missing: training", "serving", "distance", "", "threshold", "verdict"):
        number = heading in ("missing: training", "serving", "distance", "threshold")
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for one in found:
        shares = (one.training_missing, one.serving_missing, one.distance)
        training, serving, distance = ("-" if share is None else f"{share:.3f}" for share in shares)
        style = None if one.passed else "red"
        threshold = f"{one.threshold:g}"
        table.add_row(one.feature, training, serving, distance, one.measure, threshold, one.verdict, style=style)
    console.print(table)
    # Two standard errors of a share of one half.
    say(f"Of {asked.queries:,} queries, chance alone moves a share by up to {asked.queries**-0.5:.3f}.")
