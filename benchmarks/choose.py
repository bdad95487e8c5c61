"""Settings of a model compared on purchases held out of train; the test is not looked at.

    python benchmarks/choose.py graph_tower --data FOLDER --try user_power=0.3 item_power=0.4 --try user_power=0.5
    python benchmarks/choose.py two_tower --data RUN --spec SPEC --try history_encoder=self_attention

Each ``--try`` is one setting beside the model's configuration; the configuration alone is tried too. Of a data set
without times a fifth of every user's purchases is held out at random, by the seed; where its test ranks an item among
sampled negatives, one of each user's is ranked so too. Of a run of the pipeline, what was bought within the ranker's
horizon before the split is held out, and nothing is trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
from pathlib import Path

import numpy as np
import yaml
from cases import Case, Ranked, people, read_case
from quality import FOLDER, measure

from twotower.features import spec as specs
from twotower.features.timelines import Timelines
from twotower.models.early_stopping import before
from twotower.models.metrics import ItemSets
from twotower.models.moments import training_end
from twotower.models.queries import DAY
from twotower.models.sampled_negatives import SampledNegatives
from twotower.models.splits import given_pairs

HELD_OUT = 0.2
USERS = 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(file.stem for file in (FOLDER / "models").glob("*.yaml")))
    parser.add_argument("--data", type=Path, required=True, help="a folder that cases.read_case knows")
    parser.add_argument("--spec", type=Path, help="the spec, where the folder is a run of the pipeline")
    parser.add_argument("--try", dest="tries", nargs="+", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--cutoff", type=int, default=20)
    arguments = parser.parse_args()
    models = yaml.safe_load((FOLDER / "models" / f"{arguments.model}.yaml").read_text(encoding="utf-8"))
    case = read_case(arguments.data, arguments.spec, arguments.cutoff)
    if arguments.spec:
        case = held_out_in_time(case, specs.load(arguments.spec).ranking.horizon_days)
    else:
        case = held_out(case, arguments.cutoff, arguments.seeds[0])
    print("| setting | held out | metrics | fit s |\n| --- | --- | --- | --- |")
    for settings in [[], *arguments.tries]:
        pairs = (setting.split("=", 1) for setting in settings)
        tried = {**models["retrieval"], **{key: yaml.safe_load(value) for key, value in pairs}}
        row = measure(case, arguments.model, {**models, "retrieval": tried}, arguments.seeds)
        for label, runs in row.metrics.items():
            means = (f"{name} {np.mean([run[name] for run in runs]):.4f}" for name in runs[0])
            name = " ".join(settings) or "as configured"
            print(f"| {name} | {label} | {', '.join(means)} | {row.fit_seconds:.0f} |", flush=True)


def held_out_in_time(case: Case, days: int) -> Case:
    """The case with the last ``days`` before its split as the test, by the same protocols."""
    start = training_end(case.spec({}, 1).split, case.train.history) - days * DAY
    known = before(case.train, start)
    train = dataclasses.replace(known, labels=case.train.history.since(start))
    ranked = tuple(
        dataclasses.replace(
            each,
            protocol=dataclasses.replace(
                each.protocol, train=train.history, history=train.history, labels=train.labels
            ),
        )
        for each in case.ranked
    )
    base = {**case.base, "split": {"test_from": dt.datetime.fromtimestamp(start, dt.UTC)}}
    return dataclasses.replace(case, train=train, asked=train, ranked=ranked, base=base)


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
    sampled = case.sampled and among_unseen(bought, n_items, protocol.labels, case.sampled.negatives.shape[1], random)
    return dataclasses.replace(case, train=asked, asked=asked, ranked=ranked, sampled=sampled)


def among_unseen(
    bought: ItemSets, n_items: int, labels: Timelines, count: int, random: np.random.Generator
) -> SampledNegatives:
    """One label of each user who has any, among ``count`` items that the user never bought."""
    users = np.flatnonzero(labels.lengths)
    positives = labels.items[labels.offsets[users] + random.integers(labels.lengths[users])]
    every = np.arange(n_items, dtype=np.int32)
    own = (bought.indices[bought.indptr[user] : bought.indptr[user + 1]] for user in users)
    negatives = [random.choice(np.setdiff1d(every, items), count, replace=False) for items in own]
    return SampledNegatives(users, positives, np.stack(negatives))


if __name__ == "__main__":
    main()
