"""Ingest against TFX's own Parquet ExampleGen, and Beam's direct modes against each other, in one run.

    python benchmarks/ingest.py --data examples/complete_journey/data --rows 300000

Ours reads, checks, joins, groups and splits; the rival only turns each purchase into one tf.Example and
splits by hash. Each case runs in a process of its own; the table says seconds without imports and peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

MODES = ("in_memory", "multi_threading", "multi_processing")
WORKERS = 2


def ours(data: Path, out: Path, mode: str) -> Callable[[], object]:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    from twotower.features import spec
    from twotower.pipeline import ingest

    example = Path(__file__).parents[1] / "examples" / "complete_journey" / "spec.yaml"
    tables = {"interactions": "purchases", "users": "households", "items": "products"}
    paths = {section: str(data / f"{table}.parquet") for section, table in tables.items()}
    shop = spec.load(example, paths)
    for folder in ("examples", "lookup"):
        (out / folder).mkdir()
    options = PipelineOptions([f"--direct_running_mode={mode}", f"--direct_num_workers={WORKERS}"])
    return lambda: ingest.run(shop, out / "examples", out / "lookup", beam.Pipeline(options=options))


def tfx_example_gen(data: Path, out: Path) -> Callable[[], object]:
    from tfx import v1 as tfx
    from tfx.components import FileBasedExampleGen
    from tfx.components.example_gen.custom_executors import parquet_executor
    from tfx.dsl.components.base import executor_spec
    from tfx.orchestration import metadata

    generator = FileBasedExampleGen(
        input_base=str(data),
        input_config=tfx.proto.Input(splits=[tfx.proto.Input.Split(name="all", pattern="purchases.parquet")]),
        custom_executor_spec=executor_spec.BeamExecutorSpec(parquet_executor.Executor),
    )
    pipeline = tfx.dsl.Pipeline(
        pipeline_name="rival",
        pipeline_root=str(out),
        components=[generator],
        metadata_connection_config=metadata.sqlite_metadata_connection_config(str(out / "metadata.sqlite")),
        beam_pipeline_args=["--direct_running_mode=in_memory"],
    )
    return lambda: tfx.orchestration.LocalDagRunner().run(pipeline)


def measure(case: str, data: Path) -> None:
    """Run one case here, and print its seconds and peak memory as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        work = tfx_example_gen(data, out) if case == "tfx" else ours(data, out, case)
        started = time.monotonic()
        work()
        seconds = time.monotonic() - started
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024}))


def main() -> None:
    """Cut the purchases to size, run every case, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="what examples/complete_journey/prepare.py wrote")
    parser.add_argument("--rows", type=int, default=300_000, help="purchases to read")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        measure(options.case, options.data)
        return
    table = Table(title=f"Ingest of {options.rows:,} purchases", title_justify="left")
    for heading in ("case", "seconds", "rows/s", "peak MB"):
        table.add_column(heading, justify="left" if heading == "case" else "right")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        purchases = pq.read_table(options.data / "purchases.parquet")
        # Evenly spread rows keep all households and the whole year.
        kept = np.linspace(0, purchases.num_rows - 1, min(options.rows, purchases.num_rows)).astype(np.int64)
        # The rival takes no timestamps; both get unix seconds.
        place = purchases.schema.get_field_index("transaction_timestamp")
        seconds = purchases.column(place).cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        purchases = purchases.set_column(place, "transaction_timestamp", seconds)
        pq.write_table(purchases.take(kept), data / "purchases.parquet")
        for name in ("products", "households"):
            (data / f"{name}.parquet").symlink_to((options.data / f"{name}.parquet").absolute())
        for case in (*MODES, "tfx"):
            command = [sys.executable, __file__, "--data", str(data), "--case", case]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            title = "TFX's Parquet ExampleGen, in_memory" if case == "tfx" else f"ours, {case}"
            if done.returncode:
                table.add_row(title, "failed", "", done.stderr.strip().splitlines()[-1])
                continue
            found = json.loads(done.stdout.strip().splitlines()[-1])
            speed = options.rows / found["seconds"]
            table.add_row(title, f"{found['seconds']:.1f}", f"{speed:,.0f}", f"{found['peak_mb']:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
