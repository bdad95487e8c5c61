"""Ingest, StatisticsGen and Transform on Beam's engines, beside each other, in one run.

    python benchmarks/beam_engines.py --data examples/complete_journey/data

Each case is a process of its own, with cores/s: processor seconds of it and its workers by seconds. Where that
stays far below the number of cores, other work had them, and the seconds say little.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

CASES = {
    "one process": (None, ()),
    "direct, 1 worker process": ("direct", ("--direct_num_workers=1", "--direct_running_mode=multi_processing")),
    "direct, 2 worker processes": ("direct", ("--direct_num_workers=2",)),
    "dask, 2 workers of this machine": ("dask", ()),
}


def measure(case: str, data: Path) -> None:
    """Run one case here, and print its seconds by step as JSON."""
    from tfx.dsl.compiler import compiler

    from twotower.features import spec as specs
    from twotower.pipeline.beam_options import beam_args
    from twotower.pipeline.ingest import fingerprint
    from twotower.pipeline.pipeline import build
    from twotower.pipeline.runner import LocalRunner

    example = Path(__file__).parents[1] / "examples" / "complete_journey" / "spec.yaml"
    tables = {"interactions": "purchases", "users": "households", "items": "products", "promotions": "promotions"}
    spec = specs.load(example, {section: str(data / f"{table}.parquet") for section, table in tables.items()})
    runner, flags = CASES[case]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        args = beam_args(runner, flags)
        pipeline = compiler.Compiler().compile(build(spec, out, fingerprint(spec), args))
        names = [node.pipeline_node.node_info.id for node in pipeline.nodes]
        del pipeline.nodes[names.index("Transform") + 1 :]
        with (out / "said").open("w", encoding="utf-8") as said:
            run = LocalRunner(Console(file=said))
            started, used = time.monotonic(), _processor_seconds()
            run.run_with_ir(pipeline)
        seconds = time.monotonic() - started
        found = {step.name: step.seconds for step in run.steps}
    print(json.dumps({**found, "all": seconds, "cores": (_processor_seconds() - used) / seconds}))


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Run every case, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what examples/complete_journey/prepare.py wrote")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="which (default: all)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        measure(options.case, options.data)
        return
    columns = ("Ingest", "StatisticsGen", "Transform", "all", "cores")
    table = Table(title="Seconds on Beam's engines", title_justify="left")
    table.add_column("engine")
    for heading in (*columns[:-1], "cores/s"):
        table.add_column(heading, justify="right")
    for case in options.cases:
        command = [sys.executable, __file__, "--data", str(options.data), "--case", case]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            table.add_row(case, "failed", done.stderr.strip().splitlines()[-1])
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        table.add_row(case, *(f"{found[column]:.1f}" for column in columns))
    Console().print(table)


if __name__ == "__main__":
    main()
