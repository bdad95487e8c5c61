"""Which engine Beam's steps run on: a runner's name and its options, checked, as the arguments of Beam."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from apache_beam.options.pipeline_options import PipelineOptions

from twotower.features.errors import InputError

# Without a runner's name. On a few cores a second process costs more than it brings, until the tables are large.
IN_MEMORY = ("--direct_running_mode=in_memory", "--direct_num_workers=1")
_PORTABLE = ("--job_endpoint", "--job_server", "--artifact_endpoint", "--environment_", "--sdk_worker_parallelism")


@dataclass(frozen=True)
class _Engine:
    """A runner: Beam's name for it, how its own options start, and whether its job server knows more of them."""

    runner: str
    prefixes: tuple[str, ...]
    job_server: bool = False


ENGINES: Mapping[str, _Engine] = {
    "direct": _Engine("DirectRunner", ("--direct_",)),
    "dask": _Engine("twotower.pipeline.dask_runner.DaskRunner", ("--dask_",)),
    "portable": _Engine("PortableRunner", _PORTABLE, job_server=True),
    "flink": _Engine("FlinkRunner", ("--flink_", *_PORTABLE), job_server=True),
    "spark": _Engine("SparkRunner", ("--spark_", *_PORTABLE), job_server=True),
    "prism": _Engine("PrismRunner", ("--prism_", *_PORTABLE), job_server=True),
    "dataflow": _Engine("DataflowRunner", ("--dataflow_",)),
}


def beam_args(runner: str | None, flags: Sequence[str]) -> list[str]:
    """The arguments of Beam for a runner's name (none: in this process) and the options for it.

    Raises:
        InputError: nobody knows the runner or an option, it is another runner's, or its value is bad.
    """
    if runner is None:
        if flags:
            raise InputError(f"{flags[0].split('=')[0]}: an option of Beam, but --beam-runner does not say whose")
        return list(IN_MEMORY)
    engine = ENGINES.get(runner)
    if engine is None:
        near = difflib.get_close_matches(runner, ENGINES, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(ENGINES)}"
        raise InputError(f"--beam-runner: found '{runner}': {hint}")
    if runner == "dask":
        if importlib.util.find_spec("distributed") is None:
            raise InputError("--beam-runner dask: the package 'distributed' is not installed (the extra 'dask')")
        importlib.import_module("apache_beam.runners.dask.dask_runner")  # Beam knows its options only then
    parser = _parser()
    chosen, unknown = _parse(parser, flags)
    known = [flag for action in parser._actions for flag in action.option_strings]
    for flag in (given.split("=")[0] for given in unknown):
        near = difflib.get_close_matches(flag, known, n=1, cutoff=0.8 if engine.job_server else 0.6)
        # A job server has options that Python does not know.
        if near or not engine.job_server:
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(f"{flag}: not an option of Beam that --beam-runner {runner} takes{hint}")
    for flag in (given.split("=")[0] for given in flags):
        if flag == "--runner":
            raise InputError("--runner: give the runner's name to --beam-runner, not among its options")
        for other, theirs in ENGINES.items():
            if flag.startswith(theirs.prefixes) and not flag.startswith(engine.prefixes):
                raise InputError(f"{flag}: an option of --beam-runner {other}, which --beam-runner {runner} ignores")
    args = [f"--runner={engine.runner}", *flags]
    if runner == "direct" and not any(flag.startswith("--direct_running_mode") for flag in flags):
        args.append(f"--direct_running_mode={'in_memory' if chosen.direct_num_workers == 1 else 'multi_processing'}")
    return args


def _parser() -> argparse.ArgumentParser:
    """The parser that Beam reads its options with."""
    found: list[argparse.ArgumentParser] = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=found.append)
    return found[0]


def _parse(parser: argparse.ArgumentParser, flags: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parser.parse_known_args(flags)
    except SystemExit:
        raise InputError(said.getvalue().strip().rpartition("error: ")[2]) from None
