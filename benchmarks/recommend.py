"""Latency of ``recommend`` and of its parts, in this process, as the model server runs them: one client.

    python benchmarks/recommend.py --items 1000000 --out FOLDER

The shop is a synthetic one (``benchmarks/synthetic_shop.py``), whose servables stay in FOLDER for the next time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from synthetic_shop import Shop, build, read

from twotower.serving.server.servable import Servable, register_scann_ops

WARM_UP, MEASURED = 30, 500
K = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--trees", type=int, default=200)
    parser.add_argument("--kinds", nargs="+", choices=["portable", "scann"], default=["portable", "scann"])
    parser.add_argument("--out", type=Path, required=True, help="where the servables are kept")
    options = parser.parse_args()
    register_scann_ops()
    print("| index | asked | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|")
    for kind in options.kinds:
        folder = options.out / f"{kind}_{options.items}_{options.trees}"
        known = folder.is_dir()
        shop = read(options.trees, options.items) if known else build(folder, options.items, kind, trees=options.trees)
        served = Servable("synthetic", 1, str(folder))
        # The ranker alone is asked for as many candidates as the whole recommender ranks.
        for signature, k in (
            ("embed_query", 0),
            ("retrieve", shop.spec.ranking.candidates),
            ("rank", 0),
            ("recommend", K),
        ):
            p50, p95, p99 = np.percentile(measure(served, signature, shop, k), [50, 95, 99])
            print(f"| {kind} | {signature} | {p50:.1f} | {p95:.1f} | {p99:.1f} |", flush=True)
        served.close()


def measure(served: Servable, name: str, shop: Shop, k: int, **inputs: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Milliseconds of calls, a different user each."""
    signature = served.signatures[name]
    random, taken = np.random.default_rng(2), []
    for call in range(WARM_UP + MEASURED):
        user = call % len(shop.train)
        given = {**shop.request(user, k), **inputs}
        if name == "rank":
            own = np.unique(given["history_item_ids"][0])
            others = shop.catalogue.ids[random.integers(0, len(shop.catalogue), shop.spec.ranking.candidates)]
            given["candidate_item_ids"] = np.concatenate([own, others])[np.newaxis]
        asked = {alias: given.get(alias, missing(info)) for alias, info in signature.definition.inputs.items()}
        started = time.perf_counter()
        served.run(signature, asked, signature.aliases, None)
        taken.append(1e3 * (time.perf_counter() - started))
    return np.array(taken[WARM_UP:])


def missing(info: Any) -> npt.NDArray[Any]:
    """One row of an input in which nothing is known."""
    dtype = tf.as_dtype(info.dtype)
    sizes = [max(dim.size, 0) for dim in info.tensor_shape.dim]
    shape = [1, *sizes[1:]] if sizes else []
    return np.full(shape, b"" if dtype == tf.string else np.nan if dtype.is_floating else 0, dtype.as_numpy_dtype)


if __name__ == "__main__":
    main()
