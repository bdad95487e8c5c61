"""Lists a second of the batch job, of a loop over one user at a time, and of the batched graph alone, in one run.

    python benchmarks/batch.py --run out/complete_journey --out FOLDER

All ask the newest version that the run pushed, for the same users, in this process. ``graph`` is given its batches as
tensors, ready made; the job reads histories, makes tensors of them, and writes Parquet, and loads the model first.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import apache_beam as beam
import pyarrow.parquet as pq

from twotower.pipeline import servable_calls
from twotower.pipeline.batch import BATCH, SIGNATURE, lists, recommend_all, values_of
from twotower.pipeline.batch_units import units
from twotower.pipeline.pushed import pushed
from twotower.serving import servable

K = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the job's lists, made anew")
    parser.add_argument("--naive", type=int, default=300, help="users that the loop asks for")
    options = parser.parse_args()
    model = pushed(options.run / "serving")
    histories = sorted((options.run / "lookup").resolve().glob("histories*"))
    models = [servable.load(folder) for folder in model.models]
    users = [user for unit in units(histories, None) for user in unit.users()]
    spec = servable_calls.inputs(models, SIGNATURE)

    every = users[:: max(1, len(users) // options.naive)]
    ordered = sorted(users, key=lambda user: len(user["times"]))
    batches = [
        servable_calls.request(spec, [values_of(user) for user in ordered[start : start + BATCH]], K)
        for start in range(0, len(users), BATCH)
    ]
    for request in (servable_calls.request(spec, [values_of(every[0])], K), batches[0], batches[-1]):
        servable_calls.call(models, SIGNATURE, request)

    started = time.perf_counter()
    for user in every:
        servable_calls.call(models, SIGNATURE, servable_calls.request(spec, [values_of(user)], K))
    naive = len(every) / (time.perf_counter() - started)

    started = time.perf_counter()
    for request in batches:
        servable_calls.call(models, SIGNATURE, request)
    graph = len(users) / (time.perf_counter() - started)

    started = time.perf_counter()
    for unit in units(histories, None):
        pq.write_table(lists(models, unit.users(), K, model.version), options.out.with_suffix(".parquet"))
    steady = len(users) / (time.perf_counter() - started)
    options.out.with_suffix(".parquet").unlink()

    started = time.perf_counter()
    recommend_all(model, histories, None, K, options.out, beam.Pipeline())
    job = len(users) / (time.perf_counter() - started)

    print(f"{len(users):,} users, version {model.version}\n")
    print("| | lists/s | of the naive loop | of the graph |\n|---|---|---|---|")
    for name, rate in (("naive loop", naive), ("graph", graph), ("batch, model loaded", steady), ("batch job", job)):
        print(f"| {name} | {rate:,.0f} | {rate / naive:.1f} | {rate / graph:.2f} |")


if __name__ == "__main__":
    main()
