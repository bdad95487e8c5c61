"""Our ranker beside LightGBM, on the same candidates and features, in the protocols of the spec.

    .venv/bin/python benchmarks/ranking.py --spec examples/complete_journey/spec.yaml --run runs/complete_journey

It takes the transformed data, the towers and the ranker of a finished run. LightGBM learns from the very arrays that
our network learns from: the ranker's own feature code over the lists of past snapshots. Both then order what the
run's towers retrieve, joined with the user's own items; for new products without them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.spec import Spec, load
from twotower.models.baselines import BoughtMostOften
from twotower.models.boosted_trees import grow
from twotower.models.candidates import TowerRetriever
from twotower.models.moments import request_times, training_end
from twotower.models.protocol import EvaluationProtocol, Task
from twotower.models.queries import Queries
from twotower.models.ranking_features import RankingFeatures, Snapshot, item_groups
from twotower.models.ranking_inputs import training_lists
from twotower.models.tables import Users
from twotower.models.transformed import Transformed

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]
# Query features of b users and candidates [b, n] to scores [b, n].
Score = Callable[[dict[str, tf.Tensor], tf.Tensor], Float32]
Lists = dict[Task, Int32]

TASKS: tuple[Task, ...] = ("all", "new")
BLOCK = 32
TREES = 200
# Places of a list that are kept: enough are left when those that are no candidates of a protocol are dropped.
KEPT = 200


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished 'twotower run --out'")
    parser.add_argument("--seed", type=int, default=1, help="of LightGBM")
    options = parser.parse_args()
    spec = load(options.spec)
    graph, examples = (output(options.run, f"Transform/{name}") for name in ("transform_graph", "transformed_examples"))
    data = Transformed(spec, str(graph), str(examples))
    catalogue, train, asked = data.catalogue(), data.users("train"), data.users("eval")
    queries = Queries(spec, asked, len(catalogue))
    towers = TowerRetriever(str(output(options.run, "Trainer.retrieval/model", "Format-Serving")), catalogue, queries)
    ranker = tf.saved_model.load(str(output(options.run, "Trainer.ranking/model", "Format-Serving")))

    groups = item_groups(catalogue)
    end = training_end(spec.split, train.history)
    snapshot = Snapshot.take(spec, train.history, catalogue, groups, end)
    numbers = RankingFeatures(groups, snapshot)
    started = time.monotonic()
    training = training_lists(spec, train, Queries(spec, train, len(catalogue)), catalogue)
    print(f"{len(training.lists):,} lists, {len(numbers.names)} features: {time.monotonic() - started:.0f} s")
    started = time.monotonic()
    trees = grow(training, TREES, options.seed)
    print(f"LightGBM, {TREES} trees: {time.monotonic() - started:.0f} s")
    function = tf.function(numbers, reduce_retracing=True)

    def by_trees(features: dict[str, tf.Tensor], candidates: tf.Tensor) -> Float32:
        found = function(features, candidates).numpy()
        scores = trees.predict(found.reshape(-1, found.shape[2]))
        return np.asarray(scores, np.float32).reshape(found.shape[:2])

    def by_network(features: dict[str, tf.Tensor], candidates: tf.Tensor) -> Float32:
        return np.asarray(ranker.score(features, candidates)["bought"])

    often = BoughtMostOften(train.history, asked.history, len(catalogue))
    print("\n| ranker | items | all: R@20 / NDCG@20 | new: R@20 / NDCG@20 |\n|---|---|---|---|")
    lists = {
        name: ranked(spec, asked, queries, towers, len(catalogue), score)
        for name, score in (("LightGBM", by_trees), ("ours", by_network))
    }
    for chosen in spec.evaluation.candidates:
        protocol = EvaluationProtocol(
            train.history, asked.history, asked.labels, len(catalogue), chosen.min_users, k=20
        )
        found = protocol.evaluate_scores(often.score_block, "all")
        print(f"| bought most often | {chosen.name} | {found.recall:.4f} / {found.ndcg:.4f} | - |")
        for name, by_task in lists.items():
            cells = [protocol.evaluate_lists(by_task[task], task) for task in by_task]
            print(f"| {name} | {chosen.name} | {' | '.join(f'{c.recall:.4f} / {c.ndcg:.4f}' for c in cells)} |")


def output(run: Path, name: str, inside: str = ".") -> Path:
    """The newest output of a step of the run."""
    folder = run / "pipeline" / name
    versions = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    if not versions:
        raise SystemExit(f"{folder}: no output is there; expected the folder of a finished 'twotower run --out'")
    return folder / str(versions[-1]) / inside


def ranked(spec: Spec, asked: Users, queries: Queries, towers: TowerRetriever, n_items: int, score: Score) -> Lists:
    """The best items of each asked user by task, [users, KEPT] padded with -1."""
    lists: Lists = {task: np.full((len(asked), KEPT), -1, np.int32) for task in TASKS}
    retrieve, history = towers.best(spec.ranking.candidates), asked.history
    moments = request_times(spec.split, asked.labels)
    order = np.argsort(history.lengths, kind="stable")
    for start in range(0, len(order), BLOCK):
        users = order[start : start + BLOCK]
        ends, times = queries.history_ends(users), moments[users]
        own = [np.unique(history.items[history.offsets[user] : end]) for user, end in zip(users, ends, strict=True)]
        sets = [np.union1d(*pair) for pair in zip(own, retrieve(users, ends, times), strict=True)]
        sets = [rows[rows < n_items] for rows in sets]
        candidates = np.full((len(users), max(map(len, sets))), n_items, np.int32)
        for place, rows in enumerate(sets):
            candidates[place, : len(rows)] = rows
        length = min(spec.ranking.history_length, int(history.lengths[users].max()))
        features = queries.features(tf.constant(users), tf.constant(ends), tf.constant(times), length)
        scores = score(features, tf.constant(candidates))
        for place, user in enumerate(users):
            best = candidates[place, np.argsort(-scores[place], kind="stable")]
            best = best[best < n_items]
            for task, kept in zip(TASKS, (best, best[~np.isin(best, own[place])]), strict=True):
                lists[task][user, : len(kept)] = kept[:KEPT]
    return lists


if __name__ == "__main__":
    main()
