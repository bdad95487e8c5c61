"""Recall and latency of filtered retrieval, where a part of the items is allowed, against exact search of that part.

    python benchmarks/filters.py --items 1000000

The vectors are those of ``benchmarks/synthetic_shop.py``; which items are allowed has nothing to do with them.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from synthetic_shop import clustered

from twotower.serving import filtered_search
from twotower.serving.attributes import NumberAttribute
from twotower.serving.filters import RangeFilter
from twotower.serving.index import build_index
from twotower.serving.index.export import IndexExport

SHARES = (1.0, 0.5, 0.1, 0.01)
QUERIES, WARM_UP = 200, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", choices=["portable", "scann"], default=["portable", "scann"])
    options = parser.parse_args()
    vectors, queries = clustered(options.items, 2 * QUERIES, options.dim)
    prices = np.random.default_rng(1).permutation(options.items).astype(np.float32)
    filters = (RangeFilter("price", NumberAttribute(prices)),)
    print(f"| index | allowed | recall@{options.k} | p50 ms | p99 ms |\n|---|---|---|---|---|")
    for kind in options.kinds:
        index = IndexExport(build_index(vectors, kind, seed=1, queries=queries[QUERIES:]))

        @tf.function  # type: ignore[untyped-decorator]
        def search(vector: tf.Tensor, below: tf.Tensor, index: tf.Module = index) -> tf.Tensor:
            inputs = {"above_price": tf.fill([1], np.float32(np.nan)), "below_price": below[tf.newaxis]}
            inputs["excluded"] = tf.zeros([1, 0], tf.int32)
            return filtered_search.search(index, options.items, filters, inputs, vector, tf.constant(options.k))[1]

        for share in SHARES:
            limit = share * options.items - 1
            allowed = np.flatnonzero(prices <= limit)
            below = tf.constant(np.nan if share == 1 else limit, tf.float32)
            hits, taken = [], []
            for number in range(QUERIES):
                asked = tf.constant(queries[number : number + 1])
                started = time.perf_counter()
                found: npt.NDArray[np.int32] = search(asked, below).numpy()[0]
                taken.append(1e3 * (time.perf_counter() - started))
                scores = vectors[allowed] @ queries[number]
                best = allowed[np.argpartition(-scores, options.k - 1)[: options.k]]
                hits.append(len(np.intersect1d(found, best)) / options.k)
            p50, p99 = np.percentile(taken[WARM_UP:], [50, 99])
            print(f"| {kind} | {share:.0%} | {np.mean(hits):.3f} | {p50:.1f} | {p99:.1f} |", flush=True)


if __name__ == "__main__":
    main()
