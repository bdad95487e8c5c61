"""Recall against latency of the candidate indexes, each saved and loaded as the model server does it.

    python benchmarks/index.py --items 100000 --dim 64 --out out/index

Without ``--run`` the vectors are drawn around one centre for every 200 items, and the queries around the same centres;
recall depends on the data, so judge settings on the embeddings of a run. Each approximate index is built once and
searched at several numbers of leaves; * marks what it tuned itself to, on queries that are not measured.

Writes ``index.json``, ``index.md`` and ``index.svg`` into the folder ``--out``.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.moments import training_end
from twotower.models.queries import Queries
from twotower.models.transformed import Transformed
from twotower.pipeline.outputs import Outputs
from twotower.serving.index import Index, build_index
from twotower.serving.index.base import FloatMatrix
from twotower.serving.index.build import Kind
from twotower.serving.index.export import IndexExport
from twotower.serving.index.probing import Probing, recall
from twotower.serving.server.servable import Servable, register_scann_ops

TUNING_QUERIES = 256
SETTINGS = 9
COLUMNS = ("kind", "leaves", "recall", "p50 ms", "p99 ms", "first ms", "batch q/s", "build s", "disk MB")
# What the indexes are compared at.
WANTED = 0.95


@dataclasses.dataclass(frozen=True)
class Point:
    """One index at one setting; times in milliseconds for one query, but for the throughput of batches."""

    kind: Kind
    leaves: int | None
    tuned: bool
    recall: float
    p50: float
    p99: float
    first: float
    batch_rate: float
    build_seconds: float
    disk_mb: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        leaves = "all" if self.leaves is None else f"{self.leaves}{' *' if self.tuned else ''}"
        return (
            *(self.kind, leaves, f"{self.recall:.4f}", f"{self.p50:.2f}", f"{self.p99:.2f}", f"{self.first:.0f}"),
            *(f"{self.batch_rate:,.0f}", f"{self.build_seconds:.1f}", f"{self.disk_mb:.1f}"),
        )


def clustered(items: int, queries: int, dim: int, seed: int) -> tuple[FloatMatrix, FloatMatrix]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, items // 200), dim)).astype(np.float32)
    near = centres[rng.integers(len(centres), size=items + queries)]
    near += 0.5 * rng.standard_normal(near.shape, np.float32)
    return near[:items], near[items:]


def of_run(run: Path, queries: int, seed: int) -> tuple[FloatMatrix, FloatMatrix]:
    """The embeddings of a finished ``twotower run``: every item, and users as they are at the end of training."""
    cards = sorted(run.glob("serving/*/*/assets.extra/model_card.json"))
    if not cards:
        raise SystemExit(f"{run}: no pushed servable is there, expected the folder of a finished 'twotower run'")
    spec = Spec.model_validate(json.loads(cards[-1].read_text())["spec"])
    outputs = Outputs(run, spec.name)
    graph, examples = (outputs.folder("Transform", key) for key in ("transform_graph", "transformed_examples"))
    data = Transformed(spec, str(graph), str(examples))
    catalogue, users = data.catalogue(), data.users("train")
    model = outputs.folder("Trainer.retrieval", "model") / "Format-Serving"
    retriever = TowerRetriever(str(model), catalogue, Queries(spec, users, len(catalogue)))
    rows = np.random.default_rng(seed).permutation(len(users))[:queries]
    return retriever.items, retriever.embed_latest(rows, training_end(spec.split, users.history))


def best_rows(embeddings: FloatMatrix, queries: FloatMatrix, k: int) -> npt.NDArray[np.int64]:
    """The rows [queries, k] with the largest dot products, by numpy, in no order."""
    blocks = (queries[start : start + 16] @ embeddings.T for start in range(0, len(queries), 16))
    return np.concatenate([np.argpartition(-products, k - 1, axis=1)[:, :k] for products in blocks])


def settings(probing: Probing) -> Iterator[tuple[int, Probing]]:
    """Fewer and more leaves than were tuned, a factor of about 1.6 apart."""
    tuned = probing.leaves[0]
    steps = np.arange(SETTINGS) - SETTINGS // 2
    for leaves in sorted({int(n) for n in np.clip(np.round(tuned * 1.6**steps), probing.least, probing.all_leaves)}):
        yield leaves, dataclasses.replace(probing, leaves=(leaves, *probing.leaves[1:]))


def timed(call: Callable[[FloatMatrix], Any], batches: list[FloatMatrix]) -> npt.NDArray[np.float64]:
    """Seconds for each batch."""
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        call(batch)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds)


def measure(index: Index, queries: FloatMatrix, truth: npt.NDArray[np.int64], batch: int) -> dict[str, float]:
    """Saves the index, loads it as the model server does, and asks it."""
    with tempfile.TemporaryDirectory() as path:
        export = IndexExport(index)
        options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
        tf.saved_model.save(export, path, signatures={"search": export.search}, options=options)
        disk = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file()) / 1e6
        loaded = Servable("index", 1, path)
    signature = loaded.signatures["search"]
    k = np.array(truth.shape[1], np.int32)

    def ask(some: FloatMatrix) -> npt.NDArray[np.int32]:
        [rows] = loaded.run(signature, {"queries": some, "k": k}, ["output_1"], None)
        return rows

    [first] = timed(ask, [queries[:1]])
    alone = [queries[i : i + 1] for i in range(len(queries))]
    batches = [queries[i : i + batch] for i in range(0, len(queries), batch)]
    timed(ask, alone[:50] + batches[:1])
    p50, p99 = np.percentile(timed(ask, alone), [50, 99])
    rate = len(queries) / timed(ask, batches).sum()
    found = recall(np.concatenate([ask(each) for each in batches]), truth)
    loaded.close()
    milliseconds = {"p50": p50 * 1e3, "p99": p99 * 1e3, "first": first * 1e3}
    return {name: float(value) for name, value in milliseconds.items()} | {
        "recall": found,
        "batch_rate": float(rate),
        "disk_mb": disk,
    }


def curve(kind: Kind, embeddings: FloatMatrix, tuning: FloatMatrix, seed: int, *asked: Any) -> Iterator[Point]:
    """An index at its settings; ``asked`` are the last arguments of ``measure``."""
    start = time.perf_counter()
    index = build_index(embeddings, kind, seed=seed, recall=WANTED, queries=tuning)
    built = time.perf_counter() - start
    probing = getattr(index, "probing", None)
    if probing is None:
        yield Point(kind, None, True, build_seconds=built, **measure(index, *asked))
        return
    for leaves, index.probing in settings(probing):
        yield Point(kind, leaves, leaves == probing.leaves[0], build_seconds=built, **measure(index, *asked))


def compared(points: list[Point]) -> str:
    """The fastest setting of each kind that reaches the wanted recall, and the ratios of their latencies."""
    best = {
        kind: min((p for p in points if p.kind == kind and p.recall >= WANTED), key=lambda p: p.p50, default=None)
        for kind in get_args(Kind)
    }
    lines = [f"The fastest settings with a recall of at least {WANTED}:", ""]
    for kind, over in (("scann", "exact"), ("portable", "exact"), ("portable", "scann")):
        if (one := best[kind]) and (other := best[over]):
            lines.append(
                f"- {kind} at recall {one.recall:.3f}, {over} at {other.recall:.3f}: p50 {one.p50:.2f} and "
                f"{other.p50:.2f} ms, {one.p50 / other.p50:.3f} of it"
            )
    return "\n".join(lines)


def draw(points: list[Point], title: str, file: Path) -> None:
    """Recall against p50, a line for each approximate index."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    for kind in dict.fromkeys(p.kind for p in points):
        line = [p for p in points if p.kind == kind]
        [drawn] = axes.plot([p.recall for p in line], [p.p50 for p in line], marker="o", markersize=3, label=kind)
        tuned = [p for p in line if p.tuned]
        axes.plot([p.recall for p in tuned], [p.p50 for p in tuned], "*", markersize=12, color=drawn.get_color())
    axes.set(xlabel="recall", ylabel="p50 of one query, ms", yscale="log", title=title)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(file, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--run", type=Path, help="folder of a finished 'twotower run', instead of drawn vectors")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--queries", type=int, default=1_000, help="queries measured")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=get_args(Kind), default=get_args(Kind))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    wanted = args.queries + TUNING_QUERIES
    if args.run:
        embeddings, queries = of_run(args.run, wanted, args.seed)
    else:
        embeddings, queries = clustered(args.items, wanted, args.dim, args.seed)
    tuning, queries = queries[:TUNING_QUERIES], queries[TUNING_QUERIES:]
    truth = best_rows(embeddings, queries, args.k)
    register_scann_ops()

    items, dim = embeddings.shape
    title = f"{items:,} items x {dim}, k {args.k}, {len(queries)} queries, batches of {args.batch}"
    row = "| " + " | ".join(["{}"] * len(COLUMNS)) + " |"
    lines = [title, "", row.format(*COLUMNS), row.format(*["---"] * len(COLUMNS))]
    print("\n".join(lines), flush=True)
    points: list[Point] = []
    for kind in args.kinds:
        for point in curve(kind, embeddings, tuning, args.seed, queries, truth, args.batch):
            points.append(point)
            lines.append(row.format(*point.cells))
            print(lines[-1], flush=True)
    lines += ["", compared(points)]
    print("\n".join(lines[-2:]))
    args.out.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(point) for point in points]
    settings_of_run = {"items": items, "dim": dim, "k": args.k, "queries": len(queries), "batch": args.batch}
    (args.out / "index.json").write_text(json.dumps({**settings_of_run, "points": rows}, indent=1) + "\n")
    (args.out / "index.md").write_text("\n".join(lines) + "\n")
    draw(points, title, args.out / "index.svg")


if __name__ == "__main__":
    main()
