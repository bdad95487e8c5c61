"""Speed, recall and size of the candidate indexes, each saved and loaded as the model server does it.

    python benchmarks/index.py --items 100000 --dim 64

Without ``--embeddings`` the vectors are drawn around one centre for every 200 items, and the queries around the same
centres; recall depends on the data, so judge settings on a model's own embeddings.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.serving.index import Index, build_index
from twotower.serving.index.base import FloatMatrix
from twotower.serving.index.probing import recall

KINDS = ("exact", "scann", "portable")
COLUMNS = ("kind", "build s", "disk MB", "first ms", "p50 ms", "p99 ms", "batch q/s", "recall@k")


class Servable(tf.Module):  # type: ignore[misc]
    """The smallest module around an index."""

    def __init__(self, index: Index) -> None:
        super().__init__()
        self.index = index

    @tf.function  # type: ignore[untyped-decorator]
    def retrieve(self, queries: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """Searches the index."""
        scores, rows = self.index.search(queries, k)
        return {"scores": scores, "rows": rows}


def clustered(items: int, queries: int, dim: int, seed: int) -> tuple[FloatMatrix, FloatMatrix]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, items // 200), dim)).astype(np.float32)
    near = centres[rng.integers(len(centres), size=items + queries)]
    near += 0.5 * rng.standard_normal(near.shape, np.float32)
    return near[:items], near[items:]


def best_rows(embeddings: FloatMatrix, queries: FloatMatrix, k: int) -> npt.NDArray[np.int64]:
    """The rows [queries, k] with the largest dot products, by numpy, in no order."""
    blocks = (queries[start : start + 16] @ embeddings.T for start in range(0, len(queries), 16))
    return np.concatenate([np.argpartition(-products, k - 1, axis=1)[:, :k] for products in blocks])


def build_and_save(kind: Any, embeddings: FloatMatrix, tuning: FloatMatrix | None, seed: int, path: str) -> float:
    """Saves a servable; returns the seconds that building its index took."""
    start = time.perf_counter()
    servable = Servable(build_index(embeddings, kind, seed=seed, queries=tuning))
    seconds = time.perf_counter() - start
    signature = servable.retrieve.get_concrete_function(
        tf.TensorSpec([None, embeddings.shape[1]], name="queries"), tf.TensorSpec([], tf.int32, name="k")
    )
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(servable, path, signatures=signature, options=options)
    return seconds


def timed(call: Callable[[FloatMatrix], Any], batches: list[FloatMatrix]) -> npt.NDArray[np.float64]:
    """Seconds for each batch."""
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        call(batch)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds)


def measure(path: str, queries: FloatMatrix, truth: npt.NDArray[np.int64], batch: int) -> list[float]:
    """First query, p50 and p99 in milliseconds; queries a second in batches; recall."""
    k = np.int32(truth.shape[1])
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signature = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def["serving_default"]
        feeds = [signature.inputs["queries"].name, signature.inputs["k"].name]
        run = session.make_callable([signature.outputs["rows"].name], feeds)
        first = timed(lambda q: run(q, k), [queries[:1]])[0]
        timed(lambda q: run(q, k), [queries[:1]] * 20)
        alone = timed(lambda q: run(q, k), [queries[i : i + 1] for i in range(len(queries))])
        batches = [queries[i : i + batch] for i in range(0, len(queries), batch)]
        timed(lambda q: run(q, k), batches[:1])
        together = timed(lambda q: run(q, k), batches).sum()
        rows = np.concatenate([run(q, k)[0] for q in batches])
    p50, p99 = np.percentile(alone, [50, 99])
    return [first * 1e3, p50 * 1e3, p99 * 1e3, len(queries) / together, recall(rows, truth)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--queries", type=int, default=1_000, help="queries measured")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--embeddings", type=Path, help=".npy file of item embeddings, instead of drawn ones")
    parser.add_argument("--query-embeddings", type=Path, help=".npy file of query embeddings, needed with --embeddings")
    parser.add_argument(
        "--tune-on-queries",
        action="store_true",
        help="tune on 256 more queries, not on the items",
    )
    args = parser.parse_args()
    if (args.embeddings is None) != (args.query_embeddings is None):
        parser.error("--embeddings and --query-embeddings go together")
    if args.embeddings:
        embeddings, queries = np.load(args.embeddings), np.load(args.query_embeddings)
    else:
        embeddings, queries = clustered(args.items, 2 * args.queries, args.dim, args.seed)
    queries, tuning = queries[: args.queries], queries[args.queries :][:256]

    truth = best_rows(embeddings, queries, args.k)
    items, dim = embeddings.shape
    print(f"{items} items x {dim}, k {args.k}, {len(queries)} queries, in batches of {args.batch}")
    print("".join(f"{name:>11}" for name in COLUMNS))
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as path:
            built = build_and_save(kind, embeddings, tuning if args.tune_on_queries else None, args.seed, path)
            disk = sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file()) / 1e6
            first, p50, p99, rate, found = measure(path, queries, truth, args.batch)
        print(
            f"{kind:>11}{built:>11.1f}{disk:>11.1f}{first:>11.1f}{p50:>11.2f}{p99:>11.2f}{rate:>11.0f}{found:>11.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
