"""Training speed: examples per second of ours, of TFRS's tutorial, and of implicit's ALS and BPR, with their NDCG.

python benchmarks/training.py --data FOLDER [--model ours --model tutorial ...]

The folder holds `train.txt` and `test.txt` (or `.xz`), one line a user: `user item item ...`. Ids only. Each model
learns the train file in a process of its own and ranks all other items for the users of the test file, exactly. Times
are those of the whole fit; `steady` is the rate without the first epoch, which compiles.

The tutorial is "basic retrieval" of TFRS 0.7 as written: StringLookup and Embedding in each tower, the default
`tfrs.tasks.Retrieval` with metrics off in training, Adagrad(0.1), batches of 8192 of a shuffled and cached dataset; its
width alone is ours, for a fair NDCG. Ours is the `retrieval` section of `training.yaml`; `ours_plain` is ours without
XLA.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import yaml
from folders import Folder, read_folder

HERE = Path(__file__).parent
TUTORIAL_BATCH, TUTORIAL_RATE = 8192, 0.1
CUTOFF = 20
Float32 = npt.NDArray[np.float32]


class Fitted(NamedTuple):
    """Vectors whose dot products rank, and how fast they were learned.

    Attributes:
        queries, items: [users, dim] and [items, dim].
        examples: pairs that training saw.
        seconds: of the whole fit.
        steady: examples a second without the first epoch; NaN where epochs are not timed.
    """

    queries: Float32
    items: Float32
    examples: int
    seconds: float
    steady: float


def ours(folder: Folder, epochs: int) -> Fitted:
    """Our two towers, on their own draws of the train file."""
    import tensorflow as tf

    from twotower.features.spec import Spec
    from twotower.features.timelines import Timelines
    from twotower.models.candidates import embed_catalogue
    from twotower.models.contract import TrainingData
    from twotower.models.exports import TowersExport
    from twotower.models.queries import Queries
    from twotower.models.retrieval import fit
    from twotower.models.tables import Catalogue, Users
    from twotower.models.training import CURVE_FILE

    settings = yaml.safe_load((HERE / "training.yaml").read_text(encoding="utf-8"))["retrieval"]
    pairs, split = len(folder.train_users), dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    spec = Spec.model_validate(
        {
            "name": "ids",
            "interactions": {"path": "train.txt", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": split},
            "retrieval": {"epochs": epochs, "events_per_epoch": pairs, **settings},
        }
    )
    # The file has no times: all is a day old.
    times = np.full(pairs, int(split.timestamp()) - 86_400)
    ones, rows = np.ones(pairs, np.float32), np.arange(folder.n_users)
    items = folder.train_items.astype(np.int32)
    history = Timelines.from_events(folder.train_users, items, times, ones, folder.n_users)
    users = Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0))
    catalogue = Catalogue(np.array([b"%d" % row for row in range(folder.n_items)], dtype=object), {}, [])
    with tempfile.TemporaryDirectory() as scratch:
        started = time.monotonic()
        towers = fit(TrainingData(spec, catalogue, users, folder.n_users, Path(scratch)))
        seconds = time.monotonic() - started
        curve = json.loads(Path(scratch, CURVE_FILE).read_text(encoding="utf-8"))
    export = TowersExport(towers, [], [], spec.retrieval.history_length)
    queries = Queries(spec, users, folder.n_items)
    blocks = [
        export.query(
            queries.features(
                tf.constant(block),
                tf.constant(queries.history_ends(block)),
                tf.fill([len(block)], tf.constant(int(split.timestamp()), tf.int64)),
                spec.retrieval.history_length,
            )
        )
        for block in np.array_split(rows, 1 + len(rows) // 1024)
    ]
    steady = float(np.mean([entry["examples_per_second"] for entry in curve[1:]])) if len(curve) > 1 else float("nan")
    return Fitted(np.concatenate(blocks), embed_catalogue(export, catalogue), epochs * pairs, seconds, steady)


def ours_plain(folder: Folder, epochs: int) -> Fitted:
    """Ours with the loss as TensorFlow's operations one by one, not compiled by XLA."""
    from unittest import mock

    from twotower.models import retrieval
    from twotower.models.sampled_softmax import softmax_loss

    class Plain(retrieval.Retrieval):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._loss = softmax_loss

    with mock.patch.object(retrieval, "Retrieval", Plain):
        return ours(folder, epochs)


def tutorial(folder: Folder, epochs: int) -> Fitted:
    """TFRS's tutorial."""
    import tensorflow as tf
    import tensorflow_recommenders as tfrs

    import twotower.features  # noqa: F401 (chooses Keras 2, which TFRS needs)

    dim = yaml.safe_load((HERE / "training.yaml").read_text(encoding="utf-8"))["retrieval"]["embedding_dim"]
    tf.keras.utils.set_random_seed(1)

    def tower(size: int) -> tf.keras.Model:
        names = np.array([str(row) for row in range(size)])
        lookup = tf.keras.layers.StringLookup(vocabulary=names, mask_token=None)
        return tf.keras.Sequential([lookup, tf.keras.layers.Embedding(size + 1, dim)])

    class Model(tfrs.Model):
        def __init__(self) -> None:
            super().__init__()
            self.user_model, self.item_model = tower(folder.n_users), tower(folder.n_items)
            self.task = tfrs.tasks.Retrieval()

        def compute_loss(self, features: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
            users, items = self.user_model(features["user"]), self.item_model(features["item"])
            return self.task(users, items, compute_metrics=not training)

    seconds: list[float] = []

    class Clock(tf.keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
            self.started = time.monotonic()

        def on_epoch_end(self, epoch: int, logs: object = None) -> None:
            seconds.append(time.monotonic() - self.started)

    columns = {"user": folder.train_users.astype(str), "item": folder.train_items.astype(str)}
    started = time.monotonic()
    pairs = len(folder.train_users)
    train = tf.data.Dataset.from_tensor_slices(columns).shuffle(100_000, seed=1, reshuffle_each_iteration=False)
    model = Model()
    model.compile(optimizer=tf.keras.optimizers.Adagrad(TUTORIAL_RATE))
    model.fit(train.batch(TUTORIAL_BATCH).cache(), epochs=epochs, verbose=0, callbacks=[Clock()])
    whole = time.monotonic() - started
    queries, items = (
        part.layers[1].embeddings.numpy()[1:]
        for part in (model.user_model, model.item_model)  # 0 is unknown
    )
    steady = pairs * (epochs - 1) / sum(seconds[1:]) if epochs > 1 else float("nan")
    return Fitted(queries, items, epochs * pairs, whole, steady)


def als(folder: Folder, epochs: int) -> Fitted:
    """implicit's alternating least squares."""
    from implicit.cpu.als import AlternatingLeastSquares

    return _implicit(folder, AlternatingLeastSquares(factors=64, iterations=epochs, random_state=1), epochs)


def bpr(folder: Folder, epochs: int) -> Fitted:
    """implicit's Bayesian personalised ranking."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    return _implicit(folder, BayesianPersonalizedRanking(factors=63, iterations=epochs, random_state=1), epochs)


def _implicit(folder: Folder, model: object, epochs: int) -> Fitted:
    import scipy.sparse

    ones = np.ones(len(folder.train_users), np.float32)
    pairs = (folder.train_users, folder.train_items)
    matrix = scipy.sparse.csr_matrix((ones, pairs), (folder.n_users, folder.n_items))
    started = time.monotonic()
    model.fit(matrix, show_progress=False)  # type: ignore[attr-defined]
    seconds = time.monotonic() - started
    queries, items = model.user_factors, model.item_factors  # type: ignore[attr-defined]
    return Fitted(queries, items, epochs * matrix.nnz, seconds, epochs * matrix.nnz / seconds)


MODELS = {
    "ours": (ours, 4),
    "ours_plain": (ours_plain, 4),
    "tutorial": (tutorial, 4),
    "als": (als, 15),
    "bpr": (bpr, 100),
}


def measure(name: str, data: Path, epochs: int | None) -> str:
    """Fit and evaluate one model; its row of the table."""
    folder = read_folder(data)
    fit, usual = MODELS[name]
    fitted = fit(folder, epochs or usual)
    protocol = folder.protocol(CUTOFF)
    found = protocol.evaluate_vectors(np.asarray(fitted.queries, np.float32), np.asarray(fitted.items), "new")
    rate = fitted.examples / fitted.seconds
    return (
        f"| {name} | {epochs or usual} | {fitted.examples:,} | {fitted.seconds:.1f} | {rate:,.0f} | "
        f"{fitted.steady:,.0f} | {found.recall:.4f} | {found.ndcg:.4f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train.txt[.xz] and test.txt[.xz]")
    parser.add_argument("--model", choices=sorted(MODELS), action="append", help="default: all of them")
    parser.add_argument("--epochs", type=int, help="default: 4 of the towers, and implicit's own")
    arguments = parser.parse_args()
    print(f"| model | epochs | examples | seconds | examples/s | steady | Recall@{CUTOFF} | NDCG@{CUTOFF} |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    # A process each, so that none finds the others' memory and threads; TensorFlow and fork do not mix.
    context = multiprocessing.get_context("spawn")
    for name in arguments.model or MODELS:
        with context.Pool(1) as pool:
            print(pool.apply(measure, (name, arguments.data, arguments.epochs)), flush=True)


if __name__ == "__main__":
    main()
