"""The command line: ``twotower COMMAND``; ``twotower --help`` lists the commands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from twotower.features.errors import InputError
from twotower.features.spec import TABLES

RAW = argparse.RawDescriptionHelpFormatter
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; bad input is one line on standard error and exit status 2."""
    options = parser().parse_args(argv)
    try:
        return int(options.command(options))
    except InputError as error:
        print(f"twotower: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("twotower: interrupted", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    root = argparse.ArgumentParser(prog="twotower", description="From purchases to recommendations served over gRPC.")
    commands = root.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run",
        help="run the pipeline: from tables to pushed models and a report",
        description="Run the pipeline of a spec on this machine.\n\n"
        "A step whose inputs did not change is answered from the cache, so that a killed run goes on\n"
        "where it was. Exit status: 0 pushed, 3 not blessed, 2 bad input.",
        epilog="examples:\n  twotower run --spec examples/complete_journey/spec.yaml --out out/complete_journey\n"
        "  twotower run --spec examples/complete_journey/spec.yaml --beam-runner direct -- --direct_num_workers=2",
        formatter_class=RAW,
    )
    run.add_argument("--spec", type=Path, required=True, help="the shop's spec, a YAML file")
    run.add_argument("--out", type=Path, default=Path("out"), help="folder for models, report and log (default: out)")
    for table in TABLES:
        run.add_argument(f"--{table}", metavar="PATH", help=f"the {table} table, instead of the spec's path")
    _add_beam(run)
    run.set_defaults(command=_run)

    _add_compile(commands)
    _add_worker(commands)

    refresh = commands.add_parser(
        "refresh",
        help="serve the items table as it is now, without training",
        description="Embed and index the items table as it is now with the models of the last run, and push that\n"
        "as a new version: new products appear, removed ones go. Exit status: 0 pushed, 2 bad input.",
        epilog="example:\n  twotower refresh --spec examples/complete_journey/spec.yaml --out out/complete_journey",
        formatter_class=RAW,
    )
    refresh.add_argument("--spec", type=Path, required=True, help="the shop's spec, a YAML file")
    refresh.add_argument("--out", type=Path, default=Path("out"), help="folder of a finished run (default: out)")
    refresh.add_argument("--items", metavar="PATH", help="the items table, instead of the spec's path")
    refresh.set_defaults(command=_refresh)

    _add_batch(commands)
    serve = commands.add_parser(
        "serve",
        help="serve pushed models over gRPC",
        description="Serve a folder of model versions as TensorFlow Serving does: the newest, always.\n\n"
        "It is twotower-model-server, whose own flags may follow after --.",
        epilog="examples:\n  twotower serve --model-dir out/complete_journey/serving/recommender --port 8500\n"
        "  twotower serve --model-dir out/complete_journey/serving/recommender -- --rest_api_port=8501",
        formatter_class=RAW,
    )
    serve.add_argument("--model-dir", required=True, help="folder with one sub-folder a version")
    serve.add_argument("--model-name", default="recommender", help="name in requests (default: recommender)")
    serve.add_argument("--port", type=int, default=8500, help="gRPC port (default: 8500)")
    serve.add_argument("flags", nargs="*", metavar="-- FLAG", help="flags of twotower-model-server")
    serve.set_defaults(command=_serve)

    recommend = commands.add_parser(
        "recommend",
        help="ask the server for a user's list",
        description="Ask a running server what to recommend to a user, with the history that the run in --out knows.",
        epilog="example:\n  twotower recommend --user 1364 --out out/complete_journey",
        formatter_class=RAW,
    )
    recommend.add_argument("--user", required=True, help="the user's id")
    recommend.add_argument("--exclude", nargs="*", default=[], metavar="ITEM", help="items that must not come back")
    recommend.set_defaults(command=_recommend)

    similar = commands.add_parser(
        "similar",
        help="ask the server for an item's nearest",
        description="Ask a running server which items are most like one.",
        epilog="example:\n  twotower similar --item 1082185 --out out/complete_journey",
        formatter_class=RAW,
    )
    similar.add_argument("--item", required=True, help="the item's id")
    similar.set_defaults(command=_similar)
    for asks in (recommend, similar):
        asks.add_argument("--k", type=int, default=10, help="length of the list (default: 10)")
        asks.add_argument("--out", type=Path, default=Path("out"), help="folder of the run (default: out)")
        asks.add_argument("--server", default="localhost:8500", help="host:port (default: localhost:8500)")
        asks.add_argument("--model-name", default="recommender", help="name on the server (default: recommender)")

    skew = commands.add_parser(
        "skew",
        help="compare logged requests with what a run was trained on",
        description="Compare the requests in a server's logs with the training statistics of the run in --out.\n\n"
        "Exit status: 0 nothing passes its threshold, 1 something does, 2 bad input.",
        epilog="example:\n  twotower skew --logs out/logs/recommender --out out/complete_journey",
        formatter_class=RAW,
    )
    skew.add_argument(
        "--logs", required=True, metavar="PREFIX", help="the filename_prefix of the model's logging_config"
    )
    skew.add_argument("--out", type=Path, default=Path("out"), help="folder of the run (default: out)")
    skew.add_argument(
        "--threshold", nargs="+", default=[], metavar="FEATURE=SHARE", help="a feature's own threshold, from 0 to 1"
    )
    skew.set_defaults(command=_skew)

    _add_rollout(commands)
    doctor = commands.add_parser(
        "doctor",
        help="check versions, ScaNN's ops, Python and disk",
        description="Check whether this machine can run the project, by using what it needs.",
        epilog="example:\n  twotower doctor",
        formatter_class=RAW,
    )
    doctor.add_argument("--out", type=Path, default=Path(), help="folder whose disk is checked (default: this one)")
    doctor.set_defaults(command=_doctor)
    return root


def _add_batch(commands: Commands) -> None:
    batch = commands.add_parser(
        "batch",
        help="write the lists of all users, or of some, as Parquet",
        description="Ask a pushed version for the lists of all users that a run knows, or of those in a table, in one\n"
        "Beam job, and write them as Parquet. A job that was killed goes on where it was.",
        epilog="example:\n  twotower batch --run out/complete_journey --k 20 --out out/lists",
        formatter_class=RAW,
    )
    batch.add_argument("--run", type=Path, default=Path("out"), help="folder of a finished run (default: out)")
    batch.add_argument("--users", metavar="PATH", help="a table with a column of user ids (default: all users)")
    batch.add_argument("--k", type=int, default=20, help="length of the lists (default: 20)")
    batch.add_argument("--version", type=int, help="the pushed version's number (default: the newest)")
    batch.add_argument("--out", type=Path, required=True, help="folder for the lists")
    _add_beam(batch)
    batch.set_defaults(command=_batch)


def _add_rollout(commands: Commands) -> None:
    canary = commands.add_parser(
        "canary",
        help="put a version on trial under the label canary",
        description="Put a version under the label canary in a model config file, and load it beside the stable one.",
        epilog="example:\n  twotower canary --config serving/deploy/models.config --version 1795453598",
        formatter_class=RAW,
    )
    canary.add_argument("--version", type=int, required=True, help="the version's number")
    canary.set_defaults(command=_canary)

    promote = commands.add_parser(
        "promote",
        help="make the canary the stable version",
        description="Point the label stable at the canary's version, and the label previous at what was stable.",
        epilog="example:\n  twotower promote --config serving/deploy/models.config --model recommender",
        formatter_class=RAW,
    )
    promote.add_argument("--version", type=int, help="the version's number, instead of the canary's")
    promote.set_defaults(command=_promote)

    rollback = commands.add_parser(
        "rollback",
        help="make the previous version the stable one again",
        description="Point the label stable back at what it named before the last promote.",
        epilog="example:\n  twotower rollback --config serving/deploy/models.config --model recommender",
        formatter_class=RAW,
    )
    rollback.set_defaults(command=_rollback)
    for moves in (canary, promote, rollback):
        moves.add_argument("--config", type=Path, required=True, help="the model config file, a text ModelServerConfig")
        moves.add_argument("--model", default="recommender", help="name in the file (default: recommender)")
        moves.add_argument("--server", nargs="+", default=[], metavar="HOST:PORT", help="running servers to tell too")


def _add_compile(commands: Commands) -> None:
    compiled = commands.add_parser(
        "compile",
        help="write the pipeline as a file for Kubeflow Pipelines",
        description="Compile the pipeline of a spec for Kubeflow Pipelines v2, as the spec's section kubeflow says.\n\n"
        "The tables need not be on this machine. Exit status: 0 written, 2 bad input.",
        epilog="example:\n  twotower compile --spec examples/complete_journey/spec.yaml --out pipeline.yaml",
        formatter_class=RAW,
    )
    compiled.add_argument("--spec", type=Path, required=True, help="the shop's spec, a YAML file")
    compiled.add_argument("--out", type=Path, required=True, help="the file to write, which ends in .yaml")
    _add_beam(compiled)
    compiled.set_defaults(command=_compile)


def _add_beam(command: argparse.ArgumentParser) -> None:
    """Where a command's Beam steps run."""
    command.add_argument(
        "--beam-runner",
        metavar="NAME",
        help="direct, dask, portable, flink, spark, prism or dataflow (default: in this process)",
    )
    command.add_argument("beam_flags", nargs="*", metavar="-- FLAG", help="options of Beam for that runner")


def _add_worker(commands: Commands) -> None:
    worker = commands.add_parser(
        "worker",
        help="train with a `twotower run` on another machine",
        description="Wait for the Trainer step of the run in --out, which every machine of the cluster sees under the\n"
        "same path, and take the part in it that TF_CONFIG names. Exit status: 0 done, 1 failed, 2 bad input.",
        epilog="example:\n  twotower worker --out /shared/out/complete_journey",
        formatter_class=RAW,
    )
    worker.add_argument("--out", type=Path, required=True, help="folder of the run")
    worker.add_argument("--wait", type=float, default=21600, help="seconds to wait for the chief (default: 21600)")
    worker.set_defaults(command=_worker)


# Each command imports what it needs itself: TFX alone takes 20 seconds, and asking a server needs none of it.


def _run(options: argparse.Namespace) -> int:
    from twotower.pipeline.run import run

    paths = {table: getattr(options, table) for table in TABLES if getattr(options, table) is not None}
    return run(options.spec, options.out.absolute(), paths, options.beam_runner, options.beam_flags)


def _compile(options: argparse.Namespace) -> int:
    from twotower.pipeline.console import quiet

    with quiet(Path(os.devnull)) as console:
        with console.status("importing TFX"):
            from twotower.pipeline.kubeflow import compile_spec
        compile_spec(options.spec, options.out, options.beam_runner, options.beam_flags)
        console.print(f"wrote {options.out}", highlight=False)
    return 0


def _worker(options: argparse.Namespace) -> int:
    from twotower.pipeline.worker import worker

    return worker(options.out.absolute(), options.wait)


def _refresh(options: argparse.Namespace) -> int:
    from twotower.pipeline.run import refresh

    return refresh(options.spec, options.out.absolute(), {"items": options.items} if options.items else {})


def _batch(options: argparse.Namespace) -> int:
    from twotower.pipeline.run import batch

    run, out = options.run.absolute(), options.out.absolute()
    return batch(run, options.version, options.users, options.k, out, options.beam_runner, options.beam_flags)


def _serve(options: argparse.Namespace) -> int:
    from twotower.serving.server.main import serve
    from twotower.serving.server.options import parse_flags

    flags = [f"--model_base_path={options.model_dir}", f"--model_name={options.model_name}", f"--port={options.port}"]
    return serve(parse_flags([*flags, *options.flags]))


def _recommend(options: argparse.Namespace) -> int:
    from twotower.pipeline import ask

    return ask.recommend(options.server, options.model_name, options.out, options.user, options.k, options.exclude)


def _similar(options: argparse.Namespace) -> int:
    from twotower.pipeline import ask

    return ask.similar(options.server, options.model_name, options.out, options.item, options.k)


def _skew(options: argparse.Namespace) -> int:
    from twotower.pipeline import skew

    return skew.skew(options.logs, options.out, options.threshold)


def _canary(options: argparse.Namespace) -> int:
    from twotower.pipeline import rollout

    return rollout.canary(options.config, options.model, options.version, options.server)


def _promote(options: argparse.Namespace) -> int:
    from twotower.pipeline import rollout

    return rollout.promote(options.config, options.model, options.version, options.server)


def _rollback(options: argparse.Namespace) -> int:
    from twotower.pipeline import rollout

    return rollout.rollback(options.config, options.model, options.server)


def _doctor(options: argparse.Namespace) -> int:
    from rich.console import Console

    from twotower.pipeline import doctor

    return doctor.report(Console(), doctor.check(options.out))


if __name__ == "__main__":
    sys.exit(main())
