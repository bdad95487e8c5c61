"""Exact evaluation of the whole catalogue: ours against TFRS's FactorizedTopK, as its tutorial uses it.

    python benchmarks/evaluation.py --items 40981 --queries 10000

Every query has one relevant item. Both rank all items for it by dot product and count how often that item is among
the first 1, 5, 10, 50 and 100: recall is the same number, and is printed beside the rates. Vectors are drawn, or a
model's own with ``--embeddings``.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # TFRS is written for it
import tensorflow as tf
import tensorflow_recommenders as tfrs

from twotower.models.protocol import EvaluationProtocol
from twotower.models.splits import given_pairs

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
KS = (1, 5, 10, 50, 100)
# As in TFRS's retrieval tutorial.
CANDIDATE_BATCH = 128
QUERY_BATCH = 4096
GRID = np.float32(256)


def drawn(items: int, queries: int, dim: int, seed: int) -> tuple[Float32, Float32, Int64]:
    """Items, queries, and each query's relevant item, which lies nearer to it than most.

    All are multiples of 1 / ``GRID``, so that float32 products are exact in whatever order they are summed.
    FactorizedTopK compares the relevant item's score with itself, summed in another order: rounding would make it
    lose its own tie in about half of the cases.
    """
    rng = np.random.default_rng(seed)
    candidates = rng.standard_normal((items, dim), np.float32)
    relevant = rng.integers(items, size=queries)
    noise = rng.standard_normal((queries, dim), np.float32)
    queries_near = 0.35 * candidates[relevant] + noise
    candidates, queries_near = (np.round(GRID * vectors) / GRID for vectors in (candidates, queries_near))
    return candidates, queries_near, relevant


def ours(protocol: EvaluationProtocol, items: Float32, queries: Float32) -> list[float]:
    """Recall at each of ``KS``; NDCG, MAP, MRR, precision, hit rate and coverage are computed on the way."""
    lists = protocol.rank_vectors(queries, items, "all")
    return [found.recall for found in protocol.evaluate_at(lists, "all", KS)]


def rival(metric: tfrs.metrics.FactorizedTopK, items: Float32, queries: Float32, relevant: Int64) -> list[float]:
    """The same from FactorizedTopK, in a graph function over batches of queries."""

    @tf.function  # type: ignore[untyped-decorator]
    def step(asked: tf.Tensor, positives: tf.Tensor) -> None:
        metric.update_state(asked, positives)

    metric.reset_states()
    for start in range(0, len(queries), QUERY_BATCH):
        block = slice(start, start + QUERY_BATCH)
        step(tf.constant(queries[block]), tf.constant(items[relevant[block]]))
    return [float(found) for found in metric.result()]


def timed(call: Callable[[], list[float]]) -> tuple[float, list[float]]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=40_981)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--sample", type=int, default=QUERY_BATCH, help="queries for the rival, whose rate is compared")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--embeddings", type=Path, help=".npz file with items, queries and relevant, instead of drawn")
    args = parser.parse_args()
    if args.embeddings:
        with np.load(args.embeddings) as read:
            items, queries, relevant = read["items"], read["queries"], read["relevant"]
    else:
        items, queries, relevant = drawn(args.items, args.queries, args.dim, args.seed)
    sample = min(args.sample, len(queries))

    def protocol(n: int) -> EvaluationProtocol:
        users = np.arange(n)
        # A training pair is needed, and this one is nobody's who is asked.
        return given_pairs(np.array([n]), np.array([0]), users, relevant[:n], n + 1, len(items), k=max(KS))

    def with_one_more(n: int) -> Float32:
        return np.concatenate([queries[:n], np.zeros((1, items.shape[1]), np.float32)])

    def metric_over(candidates: object) -> tfrs.metrics.FactorizedTopK:
        return tfrs.metrics.FactorizedTopK(candidates=candidates, ks=KS)

    batches = tf.data.Dataset.from_tensor_slices(items).batch(CANDIDATE_BATCH)
    brute = tfrs.layers.factorized_top_k.BruteForce(k=max(KS)).index(tf.constant(items))
    rivals = {
        "FactorizedTopK(dataset)": metric_over(batches),
        "FactorizedTopK(BruteForce)": metric_over(brute),
    }
    print(f"{len(items):,} items x {items.shape[1]}, k up to {max(KS)}; {len(os.sched_getaffinity(0))} core(s)")
    columns = ("queries", "seconds", "queries/s", "ours/it", *(f"recall@{k}" for k in KS))
    print(f"{'':>28}" + "".join(f"{name:>11}" for name in columns))

    def show(name: str, n: int, seconds: float, ratio: float, found: list[float]) -> None:
        print(
            f"{name:>28}{n:>11,}{seconds:>11.2f}{n / seconds:>11,.0f}{ratio:>11.1f}"
            + "".join(f"{value:>11.5f}" for value in found),
            flush=True,
        )

    whole, asked = protocol(len(queries)), with_one_more(len(queries))
    seconds, found = timed(lambda: ours(whole, items, asked))
    rate = len(queries) / seconds
    show("ours", len(queries), seconds, 1.0, found)
    part = protocol(sample)
    _, expected = timed(lambda: ours(part, items, with_one_more(sample)))
    for name, metric in rivals.items():
        seconds, measured = timed(partial(rival, metric, items, queries[:sample], relevant[:sample]))
        show(name, sample, seconds, rate * seconds / sample, measured)
        apart = max(abs(a - b) for a, b in zip(measured, expected, strict=True))
        print(f"{'':>28} largest difference of a recall from ours on the same queries: {apart:.5f}")


if __name__ == "__main__":
    main()
