"""``twotower run`` and ``twotower refresh``: check the input, do the work, and say how it went."""

from __future__ import annotations

import datetime as dt
import fcntl
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from twotower.features import spec as specs
from twotower.features.errors import InputError
from twotower.features.model_choices import TwoTower
from twotower.models.cluster import Cluster
from twotower.pipeline.console import quiet
from twotower.pipeline.report import write
from twotower.pipeline.run_summary import MetricTable, RunSummary

NOT_BLESSED = 3
# A failure with less room than this is the disk's, whatever the library that met it says.
FULL = 1 << 20
# A terminal is narrow: these columns, at the main cut-off; the report has the rest.
SHOWN = ("Recall", "NDCG", "MAP", "Coverage")


def run(spec_path: Path, out: Path, paths: Mapping[str, str]) -> int:
    """Run the pipeline of the spec into ``out``; returns the exit status: 0, or 3 where nothing was pushed.

    Raises:
        InputError: the spec, a table or the folder is bad; what the failed step wrote is taken back.
    """
    spec = specs.load(spec_path, paths)
    for table, file in spec.files:
        table.file_format(file)
    if isinstance(spec.retrieval, TwoTower) and spec.retrieval.distribution is not None:
        cluster = Cluster.of_environment()
        cluster.check_chief()
        cluster.check_strategy(spec.retrieval.distribution.strategy)
    return _alone(spec, out, lambda console: _run(spec, spec_path, out, console))


def refresh(spec_path: Path, out: Path, paths: Mapping[str, str]) -> int:
    """Push the items table as it is now with the models of the last run in ``out``; returns the exit status.

    Raises:
        InputError: the spec, the table or the folder is bad, or the last run was not blessed; nothing is pushed then.
    """
    spec = specs.load(spec_path, paths)

    def work(console: Console) -> int:
        with console.status("importing TFX"):
            from twotower.pipeline.refresh import refresh as push_refreshed
        version = push_refreshed(spec, out)
        console.print(f"pushed version {version}", highlight=False)
        return 0

    return _alone(spec, out, work)


def _alone(spec: specs.Spec, out: Path, work: Callable[[Console], int]) -> int:
    """Do the work while nobody else writes to ``out``, with its log there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be the folder of a run: {error.strerror}") from None
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{out}: another run is writing there") from None
        log = out / "logs" / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}.log"
        with quiet(log) as console:
            console.print(f"[bold]{spec.name}[/]  into {out}", highlight=False)
            console.print(f"log: {log}", highlight=False)
            try:
                return work(console)
            except Exception as error:
                logging.exception("the run failed")
                found = _input_error(error)
                if found is not None:
                    raise found from error
                free = shutil.disk_usage(out).free
                if free < FULL:
                    raise InputError(f"{out}: the disk is full: found {free:,} bytes free; log: {log}") from error
                console.print(f"[red]failed[/]: {type(error).__name__}: {error}", highlight=False)
                console.print(f"the whole story: {log}", highlight=False)
                return 1


def _run(spec: specs.Spec, spec_path: Path, out: Path, console: Console) -> int:
    # Imported here, after the terminal is ours: TFX takes 20 seconds and says a lot.
    with console.status("importing TFX"):
        from twotower.pipeline.outputs import Outputs
        from twotower.pipeline.pipeline import build
        from twotower.pipeline.run_report import summarize
        from twotower.pipeline.runner import LocalRunner

    runner = LocalRunner(console)
    runner.run(build(spec, out))
    outputs = Outputs(out, spec.name)
    summary = summarize(spec, spec_path.read_text(encoding="utf-8"), outputs, runner.steps)
    report = out / "report.html"
    write(summary, report)
    _link_lookup(outputs.folder("Ingest", "lookup"), out)
    _show(summary, console)
    console.print(f"report: {report}", highlight=False)
    return 0 if summary.passed else NOT_BLESSED


def _link_lookup(target: Path, out: Path) -> None:
    """Point ``out/lookup`` at the run's lookup tables, so that asking needs no metadata store, and no TFX."""
    link = out / ".lookup.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(target.relative_to(out))
    link.rename(out / "lookup")


def _show(summary: RunSummary, console: Console) -> None:
    steps = Table(title="Steps", title_justify="left")
    for heading in ("step", "", "seconds"):
        steps.add_column(heading, justify="right" if heading == "seconds" else "left")
    for step in summary.steps:
        steps.add_row(step.name, step.status, f"{step.seconds:.1f}")
    steps.add_section()
    steps.add_row(
        "all", f"{summary.peak_memory_mb / 1000:.1f} GB at most", f"{sum(s.seconds for s in summary.steps):.1f}"
    )
    console.print(steps)
    for table in summary.tables:
        if "Coverage" in table.columns:
            console.print(_metrics(table))
    style = "green" if summary.passed else "red"
    console.print(f"[{style}]{summary.verdict}[/]", highlight=False)


def _metrics(table: MetricTable) -> Table:
    shown = Table(title=table.title, caption=table.caption, title_justify="left", caption_justify="left")
    shown.add_column("model")
    places = [place for place, column in enumerate(table.columns) if column.startswith(SHOWN)]
    for place in places:
        shown.add_column(table.columns[place], justify="right")
    for row in table.rows:
        values = ["" if row.values[place] is None else f"{row.values[place]:.4f}" for place in places]
        shown.add_row(row.model, *values, style="bold" if row.model == "recommender" else None)
    return shown


def _input_error(error: BaseException | None) -> InputError | None:
    """The InputError that a step raised, behind TFX's own exceptions."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None
