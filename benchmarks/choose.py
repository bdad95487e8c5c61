"""Settings of a model compared on purchases held out of the train file; the test file is not looked at.

python benchmarks/choose.py graph_tower --data FOLDER --try user_power=0.3 item_power=0.4 --try user_power=0.5

Each ``--try`` is one setting beside the model's configuration; the configuration alone is tried too. A fifth of every
user's purchases is held out at random, by the seed.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import yaml
from cases import Case, Ranked, people, read_case
from quality import FOLDER, measure

from twotower.models.metrics import ItemSets
from twotower.models.splits import given_pairs

HELD_OUT = 0.2
USERS = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(file.stem for file in (FOLDER / "models").glob("*.yaml")))
    parser.add_argument("--data", type=Path, required=True, help="a folder of ids that cases.read_case knows")
    parser.add_argument("--try", dest="tries", nargs="+", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--cutoff", type=int, default=20)
    arguments = parser.parse_args()
    models = yaml.safe_load((FOLDER / "models" / f"{arguments.model}.yaml").read_text(encoding="utf-8"))
    case = held_out(read_case(arguments.data, None, arguments.cutoff), arguments.cutoff, arguments.seeds[0])
    print("| setting | NDCG | Recall | fit s |\n| --- | --- | --- | --- |")
    for settings in [[], *arguments.tries]:
        pairs = (setting.split("=", 1) for setting in settings)
        tried = {**models["retrieval"], **{key: yaml.safe_load(value) for key, value in pairs}}
        row = measure(case, arguments.model, {**models, "retrieval": tried}, arguments.seeds)
        [runs] = row.metrics.values()
        ndcg, recall = (np.mean([run[f"{name}@{arguments.cutoff}"] for run in runs]) for name in ("NDCG", "Recall"))
        print(
            f"| {' '.join(settings) or 'as configured'} | {ndcg:.4f} | {recall:.4f} | {row.fit_seconds:.0f} |",
            flush=True,
        )


def held_out(case: Case, cutoff: int, seed: int) -> Case:
    """The case with a share of each user's training items as the test, measured on some of the users."""
    random = np.random.default_rng(seed)
    n_users, n_items = len(case.train), len(case.catalogue)
    bought = ItemSets.bought(case.train.history, n_items)
    # The first of a user's items in a random order.
    order = np.lexsort((random.random(len(bought.indices)), bought.users))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(bought.indptr[:-1], bought.lengths)
    is_held = place < (bought.lengths * HELD_OUT).astype(np.int64)[bought.users]
    measured = np.zeros(n_users, dtype=bool)
    measured[random.permutation(n_users)[:USERS]] = True
    test = is_held & measured[bought.users]
    users, items = bought.users, bought.indices.astype(np.int64)
    protocol = given_pairs(users[~is_held], items[~is_held], users[test], items[test], n_users, n_items, k=cutoff)
    asked = people(protocol.history, protocol.labels)
    ranked = (Ranked("held out of train", protocol, "new"),)
    return dataclasses.replace(case, train=asked, asked=asked, ranked=ranked, sampled=None)


if __name__ == "__main__":
    main()
