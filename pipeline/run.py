"""``twotower run``, ``refresh`` and ``batch``: check the input, do the work, and say how it went."""

from __future__ import annotations

import datetime as dt
import fcntl
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from twotower.features import spec as specs
from twotower.features.errors import InputError
from twotower.features.model_choices import TwoTower
from twotower.models.cluster import Cluster
from twotower.pipeline.console import quiet
from twotower.pipeline.lookup import lookup_folder
from twotower.pipeline.report import write
from twotower.pipeline.run_summary import MetricTable, RunSummary

NOT_BLESSED = 3
# A failure with less room than this is the disk's, whatever the library that met it says.
FULL = 1 << 20
# A terminal is narrow: these columns, at the main cut-off; the report has the rest.
SHOWN = ("Recall", "NDCG", "MAP", "Coverage")


def run(
    spec_path: Path, out: Path, paths: Mapping[str, str], beam_runner: str | None, beam_flags: Sequence[str]
) -> int:
    """Run the pipeline of the spec into ``out``; returns the exit status: 0, or 3 where nothing was pushed.

    Its Beam steps run on ``beam_runner`` with its options (see ``beam_options.beam_args``).

    Raises:
        InputError: the spec, a table, the folder or an option of Beam is bad; what the failed step wrote is taken back.
    """
    spec = specs.load(spec_path, paths)
    for table, file in spec.files:
        table.file_format(file)
    if isinstance(spec.retrieval, TwoTower) and spec.retrieval.distribution is not None:
        cluster = Cluster.of_environment()
        cluster.check_chief()
        cluster.check_strategy(spec.retrieval.distribution.strategy)

    def work(console: Console) -> int:
        with console.status("importing Beam"):
            from twotower.pipeline.beam_options import beam_args
        return _run(spec, spec_path, out, beam_args(beam_runner, beam_flags), console)

    return _alone(spec.name, out, work)


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

    return _alone(spec.name, out, work)


def batch(
    run: Path,
    version: int | None,
    users: str | None,
    k: int,
    out: Path,
    beam_runner: str | None,
    beam_flags: Sequence[str],
) -> int:
    """Write the lists of all users of a finished run, or of those in a table, into ``out``; returns the exit status.

    Raises:
        InputError: there is no such version, user, folder or runner; see ``batch.recommend_all``.
    """
    lookup = lookup_folder(run)

    def work(console: Console) -> int:
        with console.status("importing TensorFlow"):
            import apache_beam as beam
            from apache_beam.options.pipeline_options import PipelineOptions

            from twotower.pipeline.batch import recommend_all
            from twotower.pipeline.batch_units import wanted_users
            from twotower.pipeline.beam_options import beam_args
            from twotower.pipeline.pushed import pushed
        started = time.monotonic()
        model = pushed(run / "serving", version)
        wanted = None if users is None else wanted_users(users, model.spec)
        pipeline = beam.Pipeline(options=PipelineOptions(beam_args(beam_runner, beam_flags)))
        counts = recommend_all(model, sorted(lookup.resolve().glob("histories*")), wanted, k, out, pipeline)
        said = (
            f"lists of {counts['users']:,} users by version {model.version}: {counts['items']:,} items",
            f"{counts['short']:,} lists are shorter than {k}",
            f"{counts['files']} files, {counts['there']} of them there before",
            f"{time.monotonic() - started:.1f} s",
        )
        console.print("; ".join(said), highlight=False)
        return 0

    return _alone("batch", out, work)


def _alone(name: str, out: Path, work: Callable[[Console], int]) -> int:
    """Do the work while nobody else writes to ``out``, with its log there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be a folder to write to: {error.strerror}") from None
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{out}: another run is writing there") from None
        log = out / "logs" / f"{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}.log"
        with quiet(log) as console:
            console.print(f"[bold]{name}[/]  into {out}", highlight=False)
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


def _run(spec: specs.Spec, spec_path: Path, out: Path, beam_args: Sequence[str], console: Console) -> int:
    # Imported here, after the terminal is ours: TFX takes 20 seconds and says a lot.
    with console.status("importing TFX"):
        from twotower.features.window import described, resolved
        from twotower.pipeline import retention
        from twotower.pipeline.ingest import fingerprint
        from twotower.pipeline.outputs import Outputs
        from twotower.pipeline.pipeline import build, pushed_folders
        from twotower.pipeline.run_report import summarize
        from twotower.pipeline.runner import LocalRunner

    spec = resolved(spec)
    if isinstance(spec.split, specs.TimeSplit):
        console.print(described(spec.split), highlight=False)
    if spec.retention.config_file is not None:
        # Before anything is done, not after it.
        retention.named_versions(Path(spec.retention.config_file))
    for folder in pushed_folders(spec, out).values():  # a server may watch them before the first push
        Path(folder).mkdir(parents=True, exist_ok=True)
    runner = LocalRunner(console)
    runner.run(build(spec, out, fingerprint(spec), beam_args))
    outputs = Outputs(out, spec.name)
    summary = summarize(spec, spec_path.read_text(encoding="utf-8"), outputs, runner.steps)
    report = out / "report.html"
    write(summary, report)
    _link("lookup", outputs.folder("Ingest", "lookup"), out)
    if spec.batch is not None and summary.passed:
        _link("lists", outputs.folder("BatchRecommend", "lists"), out)
    _show(summary, console)
    console.print(f"report: {report}", highlight=False)
    for line in retention.apply(spec, out):
        console.print(line, highlight=False)
    return 0 if summary.passed else NOT_BLESSED


def _link(name: str, target: Path, out: Path) -> None:
    """Point ``out/name`` at an artifact of the run, so that reading it needs no metadata store, and no TFX."""
    link = out / f".{name}.partial"
    link.unlink(missing_ok=True)
    link.symlink_to(target.relative_to(out))
    link.rename(out / name)


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
