"""Epochs that a warm start saves: NDCG of cold and of warm starts on a window that rolled on, for a made-up shop.

python benchmarks/warm_start.py [--epochs 1 2 3 6]

Users buy from a few groups of items of their own. The last model learned `max(epochs)` epochs of the window before;
then ten days pass, some users and items are new, and the oldest ten days go. Ids only, in the order of frequency, as
tf.Transform would have them. NDCG@20 is of what users buy for the first time in the ten days after the window.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

USERS, ITEMS, GROUPS, TASTES = 4000, 2000, 50, 3
DAYS, ROLL = 90, 10
DAY = 86_400
# Share of users and of items that appear in the days that the window rolls on.
NEW = 0.05
SETTINGS: dict[str, Any] = {
    "embedding_dim": 32,
    "graph_factors": 0,
    "min_id_count": 2,
    "id_dropout": 0.1,
    "events_per_epoch": 50_000,
    "learning_rate": 0.002,
    "warm_start": True,
}
Int64 = npt.NDArray[np.int64]


class Bought(NamedTuple):
    """Events: users, items, and days, each [n]."""

    users: Int64
    items: Int64
    days: Int64


def shop(seed: int = 1) -> Bought:
    """About 12 purchases a user in 110 days."""
    random = np.random.default_rng(seed)
    tastes = random.integers(0, GROUPS, (USERS, TASTES))
    users = random.integers(0, USERS, 12 * USERS)
    groups = tastes[users, random.integers(0, TASTES, len(users))]
    # Within a group some items are bought far more often.
    places = np.minimum(random.zipf(1.5, len(users)) - 1, ITEMS // GROUPS - 1)
    days = random.integers(0, DAYS + 2 * ROLL, len(users))
    items = places * GROUPS + groups
    old_users, old_items = random.random(USERS) > NEW, random.random(ITEMS) > NEW
    there = (days >= DAYS) | (old_users[users] & old_items[items])
    return Bought(users[there], items[there], days[there])


def main() -> None:
    """Print NDCG and seconds for each number of epochs."""
    from twotower.features.spec import Spec
    from twotower.features.timelines import Timelines
    from twotower.models.contract import Towers, TrainingData
    from twotower.models.early_stopping import KeepBest, before
    from twotower.models.retrieval import fit
    from twotower.models.tables import Catalogue, Users
    from twotower.models.training_events import two_tower
    from twotower.models.warm_start import FILE, Base, WarmStart

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2, 3, 6])
    chosen = parser.parse_args().epochs
    logging.basicConfig(format="%(message)s")
    bought = shop()

    def night(first: int) -> tuple[Catalogue, Users, int]:
        """The window from day ``first``: catalogue, users with the days of the test, and the test's first second."""
        start = first + DAYS
        window = (bought.days >= first) & (bought.days < start)
        users, items = (by_frequency(names[window]) for names in (bought.users, bought.items))
        seen = (bought.days >= first) & (bought.days < start + ROLL) & np.isin(bought.users, users)
        place = np.full(ITEMS, len(items))
        place[items] = np.arange(len(items))
        row = np.zeros(USERS, np.int64)
        row[users] = np.arange(len(users))
        history = Timelines.from_events(
            row[bought.users[seen]],
            place[bought.items[seen]].astype(np.int32),
            bought.days[seen] * DAY,
            np.ones(seen.sum(), np.float32),
            len(users),
        )
        ids = [np.array([b"%d" % one for one in names], object) for names in (items, users)]
        people = Users(ids[1], np.arange(len(users)), {}, [], history, {}, history.latest(0))
        return Catalogue(ids[0], {}, []), people, start * DAY

    def train(first: int, epochs: int, folder: Path, last: Path | None) -> tuple[float, float]:
        catalogue, people, start = night(first)
        spec = Spec.model_validate(
            {
                "name": "shop",
                "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
                "split": {"test_from": np.datetime64(start, "s").astype(object)},
                "retrieval": {**SETTINGS, "epochs": epochs},
            }
        )
        vocabularies = {"item_id": catalogue.ids.tolist(), "user_id": people.ids.tolist()}
        known, warm = before(people, start), WarmStart(vocabularies, last)
        began = time.monotonic()
        towers = fit(TrainingData(spec, catalogue, known, len(people), folder, warm))
        seconds = time.monotonic() - began
        Base.of(towers.query, towers.candidate, two_tower(spec), [], vocabularies).save(folder / FILE)  # type: ignore[arg-type]
        return KeepBest(Towers(towers.query, towers.candidate), spec, catalogue, people, start).ndcg(), seconds

    with tempfile.TemporaryDirectory() as scratch:
        last = Path(scratch, "last")
        train(0, max(chosen), last, None)
        print("epochs  cold NDCG@20  seconds  warm NDCG@20  seconds")
        for epochs in chosen:
            cold = train(ROLL, epochs, Path(scratch, f"cold-{epochs}"), None)
            warm = train(ROLL, epochs, Path(scratch, f"warm-{epochs}"), last)
            print(f"{epochs:6}  {cold[0]:12.4f}  {cold[1]:7.1f}  {warm[0]:12.4f}  {warm[1]:7.1f}", flush=True)


def by_frequency(names: Int64) -> Int64:
    """Distinct names, the most frequent first."""
    found, counts = np.unique(names, return_counts=True)
    ordered: Int64 = found[np.argsort(-counts, kind="stable")]
    return ordered


if __name__ == "__main__":
    main()
