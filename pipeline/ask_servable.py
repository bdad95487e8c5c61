"""Ask a saved recommender for test users' lists, in a process of its own.

    python -m twotower.pipeline.ask_servable MODEL EXAMPLES REQUESTS OUT --k K [--ranking MODEL]

It reads raw eval examples, as a client would know them, and from ``REQUESTS`` (.npz) the ``users`` [n] and the
``times`` [n] at which they ask. It writes ``OUT`` (.npz): ``users`` and ``times`` in its own order, for
``recommend`` and ``retrieve`` ids [n, k], the recommender's ``scores`` [n, k], and as ``discover`` the
recommender's ids [n, k] with everything excluded that the user bought before. It fails if an answer breaks
a promise: an item twice, scores that rise, an excluded item that comes back. A portable model must also
answer where ScaNN was never imported.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Strings = npt.NDArray[np.object_]
BATCH = 32
# What is asked: the signature, and whether the user's own items are excluded.
ASKED = {"recommend": ("recommend", False), "retrieve": ("retrieve", False), "discover": ("recommend", True)}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the module's command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("examples", type=Path, help="folder of raw eval examples")
    parser.add_argument("requests", type=Path, help="users, and the unix seconds at which they ask")
    parser.add_argument("out", type=Path)
    parser.add_argument("--k", type=int, required=True)
    parser.add_argument("--ranking", type=Path, help="the second stage, where MODEL is the first")
    options = parser.parse_args(argv)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    from twotower.pipeline import servable_calls
    from twotower.serving import servable

    models = [servable.load(folder) for folder in (options.model, options.ranking) if folder is not None]
    if b"Scann>" not in (options.model / "saved_model.pb").read_bytes() and "scann" in sys.modules:
        raise RuntimeError("the portable model was to be loaded without ScaNN, but something imported it")
    with np.load(options.requests) as asked:
        moments = dict(zip(asked["users"].tolist(), asked["times"].tolist(), strict=True))
    examples = _examples(options.examples, moments)
    # Histories of like length make batches without much padding.
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["history_item_id"].bytes_list.value))
    users = np.array([example["user_id"].bytes_list.value[0] for example in examples])
    times = np.array([moments[user] for user in users.tolist()], dtype=np.int64)
    k, found = options.k, {}
    best = np.full((len(examples), k), -np.inf, dtype=np.float32)
    for name, (signature_name, only_new) in ASKED.items():
        spec = servable_calls.inputs(models, signature_name)
        lists = np.full((len(examples), k), b"", dtype=object)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            asking = [examples[row] for row in rows]
            values = [values_of(example, int(time)) for example, time in zip(asking, times[rows], strict=True)]
            request = servable_calls.request(spec, values, k)
            bought = distinct([_values(example, "history_item_id") for example in asking])
            if only_new:
                request["exclude_item_ids"] = tf.constant(bought)
            answer = servable_calls.call(models, signature_name, request)
            ids, scores = answer["item_ids"].numpy(), answer["scores"].numpy()
            check(ids, scores)
            if only_new:
                check_excluded(name, ids, bought)
            lists[rows] = ids
            if name == "recommend":
                best[rows] = scores
            if start == 0:
                request["exclude_item_ids"] = tf.constant(ids[:, : max(1, k // 4)])
                left = servable_calls.call(models, signature_name, request)["item_ids"].numpy()
                check_excluded(name, left, ids[:, : max(1, k // 4)])
        found[name] = lists
    ids = {name: lists.astype(np.bytes_) for name, lists in found.items()}
    np.savez(options.out, users=users, times=times, scores=best, **ids)
    return 0


def _examples(folder: Path, users: Collection[bytes]) -> list[Any]:
    """The feature maps of the users' raw examples; the other users' are read, and not kept."""
    import tensorflow as tf

    files = sorted(str(file) for file in folder.glob("*"))
    records = tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator()
    every = (tf.train.Example.FromString(record).features.feature for record in records)
    return [example for example in every if example["user_id"].bytes_list.value[0] in users]


def values_of(example: object, time: int) -> dict[str, Sequence[Any]]:
    """A raw example's feature map as a request's values by input name, asked at ``time``, unix seconds.

    The context of a request that has not happened is not known.
    """
    names = {"history_item_id": "history_item_ids", "history_time": "history_times"}
    found = {names.get(name, name): _values(example, name) for name in example}  # type: ignore[attr-defined]
    found = {name: values for name, values in found.items() if not name.startswith("context_")}
    return {**found, "time": [time]}


def distinct(rows: Sequence[Sequence[object]]) -> Strings:
    """The ids of each of b rows once, padded with empty ones: [b, e]."""
    sets: list[list[object]] = [list(dict.fromkeys(row)) for row in rows]
    width = max(1, *map(len, sets))
    return np.array([row + [b""] * (width - len(row)) for row in sets], dtype=object)


def check(ids: Strings, scores: npt.NDArray[np.float32]) -> None:
    """Raise where a list [b, k] holds an item twice or its scores rise."""
    for row, values in zip(ids, scores, strict=True):
        named = row[row != b""]
        if len(set(named)) != len(named):
            raise RuntimeError("a list holds an item twice")
        if np.any(np.diff(values[: len(named)]) > 0) or np.any(np.isfinite(values[len(named) :])):
            raise RuntimeError("the scores of a list rise, or padding has a score")


def check_excluded(name: str, ids: Strings, excluded: Strings) -> None:
    """Raise where a list [b, k] holds an item of its row of ``excluded`` [b, e]."""
    for row, unwanted in zip(ids, excluded, strict=True):
        returned = (set(row) & set(unwanted)) - {b""}
        if returned:
            raise RuntimeError(f"{name}: the excluded items {sorted(returned)[:3]} came back")


def _values(example: object, name: str) -> Sequence[object]:
    if name not in example:  # type: ignore[operator]
        return []
    feature = example[name]  # type: ignore[index]
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


if __name__ == "__main__":
    sys.exit(main())
