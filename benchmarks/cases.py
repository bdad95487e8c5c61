"""What a data set asks of a model: what it learns from, whom it is asked about, and by which protocols."""

from __future__ import annotations

import datetime as dt
import lzma
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from folders import Int64, read_folder

from twotower.features import spec as specs
from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.metrics import ItemSets
from twotower.models.protocol import EvaluationProtocol, Task
from twotower.models.sampled_negatives import SampledNegatives
from twotower.models.splits import given_pairs, leave_last_out, split_protocol
from twotower.models.tables import Catalogue, Users
from twotower.models.transformed import Transformed
from twotower.pipeline.outputs import Outputs

# Given pairs have the time 0 in train and 1 in the test.
PAIRS_SPLIT = dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC)

# What a row calls the tasks and the split of a finished run.
TASKS: Mapping[Task, str] = {"all": "all purchases", "new": "new products"}
KINDS = {"time": "split in time", "leave_last_out": "leave last basket out", "given": "given files"}


@dataclass(frozen=True)
class Ranked:
    """A protocol that ranks the whole catalogue."""

    label: str
    protocol: EvaluationProtocol
    task: Task


@dataclass(frozen=True)
class Case:
    """A data set.

    Attributes:
        name: the folder's.
        catalogue, train, n_users: what a model learns from.
        asked: the users of the protocols, row by row.
        ranked: full rankings.
        sampled: one positive among given negatives, if old papers report that; rows of ``asked``.
        base: the spec without its models.
    """

    name: str
    catalogue: Catalogue
    train: Users
    n_users: int
    asked: Users
    ranked: tuple[Ranked, ...]
    sampled: SampledNegatives | None
    base: Mapping[str, Any]

    def spec(self, models: Mapping[str, Any], seed: int) -> Spec:
        """The case's spec with the sections ``retrieval`` and ``ranking`` of a configuration file, and a seed."""
        return Spec.model_validate({**self.base, **models, "seed": seed})


def read_case(data: Path, spec: Path | None, cutoff: int) -> Case:
    """The data set in a folder, recognised by its files.

    * ``train.txt`` and ``test.txt`` (or ``.xz``): a given train and test file, ids only;
    * ``train.pairs.tsv.xz``, ``ml-1m.test.rating`` and ``test.negative.xz``: the NCF paper's leave-one-out split;
    * a ``.inter`` file: ratings with times, each user's last one held out;
    * ``metadata.sqlite``: a finished ``twotower run``, whose ``--spec`` must be given.

    Raises:
        SystemExit: it is none of these.
    """
    readers: dict[str, Callable[[], Case]] = {
        "train.txt": lambda: _pairs(data, cutoff),
        "train.txt.xz": lambda: _pairs(data, cutoff),
        "train.pairs.tsv.xz": lambda: _ncf(data),
        "*.inter": lambda: _ratings(data, cutoff),
        "metadata.sqlite": lambda: _run(data, spec, cutoff),
    }
    for pattern, read in readers.items():
        if any(data.glob(pattern)):
            return read()
    raise SystemExit(f"{data}: found none of {', '.join(readers)}; expected a folder with one of them")


def _pairs(data: Path, cutoff: int) -> Case:
    folder = read_folder(data)
    protocol = folder.protocol(cutoff)
    users = people(protocol.history, protocol.labels)
    ranked = (Ranked(f"given files, full ranking, @{cutoff}", protocol, "new"),)
    return _ids_only(data, folder.n_items, users, ranked)


def _ncf(data: Path) -> Case:
    train_users, train_items = _columns(data / "train.pairs.tsv.xz")[:2]
    test_users, test_items = _columns(data / "ml-1m.test.rating")[:2]
    # "(user,item)" and then the user's negatives.
    with lzma.open(data / "test.negative.xz", "rt", encoding="utf-8") as lines:
        rows = [line.split("\t") for line in lines]
    owners = np.array([int(row[0].strip("()").split(",")[0]) for row in rows])
    negatives = np.array([row[1:] for row in rows], dtype=np.int32)
    if not np.array_equal(owners, test_users):
        raise SystemExit(
            f"{data}: test.negative.xz and ml-1m.test.rating name other users, expected the same in one order"
        )
    n_users = int(max(train_users.max(), test_users.max())) + 1
    n_items = int(max(train_items.max(), test_items.max(), negatives.max())) + 1
    full = given_pairs(train_users, train_items, test_users, test_items, n_users, n_items, k=10)
    # 156 of the paper's cases list the positive among its own negatives; its code then ranks it once, among 98.
    negatives[negatives == test_items[:, np.newaxis]] = -1
    sampled = SampledNegatives(test_users, test_items.astype(np.int32), negatives)
    sampled.check_unseen(ItemSets.bought(full.history, n_items))
    users = people(full.history, full.labels)
    return _ids_only(data, n_items, users, (Ranked("leave one out, full ranking, @10", full, "new"),), sampled)


def _ratings(data: Path, cutoff: int) -> Case:
    [file] = data.glob("*.inter")
    table = np.loadtxt(file, skiprows=1, dtype=np.float64)
    rows = [np.unique(column, return_inverse=True)[1] for column in table[:, :2].T.astype(np.int64)]
    n_users, n_items = (int(row.max()) + 1 for row in rows)
    times, ones = table[:, 3].astype(np.int64), np.ones(len(table), np.float32)
    # Ratings of one second: what stands first in the file is older.
    timelines = Timelines.from_events(rows[0], rows[1].astype(np.int32), times, ones, n_users)
    split = leave_last_out(timelines)
    ranked = (Ranked(f"leave last out, full ranking, @{cutoff}", split.protocol(n_items, cutoff), "new"),)
    last = dt.datetime.fromtimestamp(int(times.max()) + 1, dt.UTC)
    return _ids_only(data, n_items, people(split.history, split.labels), ranked, split=last)


def _run(out: Path, spec: Path | None, cutoff: int) -> Case:
    if spec is None:
        raise SystemExit(f"{out} is a run of the pipeline: expected its --spec too")
    shop = specs.load(spec)
    outputs = Outputs(out, shop.name)
    data = Transformed(
        shop,
        str(outputs.folder("Transform", "transform_graph")),
        str(outputs.folder("Transform", "transformed_examples")),
    )
    catalogue, train, asked = data.catalogue(), data.users("train"), data.users("eval")
    ranked = tuple(
        Ranked(
            f"{KINDS[shop.split.kind]}, {chosen.name}, {TASKS[task]}, @{cutoff}",
            split_protocol(shop.split, train, asked, len(catalogue), chosen.min_users, cutoff),
            task,
        )
        for chosen in shop.evaluation.candidates
        for task in TASKS
    )
    base = shop.model_dump(mode="json", by_alias=True, exclude={"retrieval", "ranking", "seed"})
    return Case(shop.name, catalogue, train, data.n_users, asked, ranked, None, base)


def _ids_only(
    data: Path,
    n_items: int,
    users: Users,
    ranked: tuple[Ranked, ...],
    sampled: SampledNegatives | None = None,
    split: dt.datetime = PAIRS_SPLIT,
) -> Case:
    name = data.resolve().name
    catalogue = Catalogue(np.array([b"%d" % row for row in range(n_items)], dtype=object), {}, [])
    base = {
        "name": "ids",
        "interactions": {"path": name, "user": "user", "item": "item", "time": "time"},
        "split": {"test_from": split},
    }
    return Case(name, catalogue, users, len(users), users, ranked, sampled, base)


def people(history: Timelines, labels: Timelines) -> Users:
    """Users by row alone, without features."""
    rows = np.arange(history.n_users)
    return Users(rows.astype(object), rows, {}, [], history, {}, labels)


def _columns(file: Path) -> list[Int64]:
    return list(np.loadtxt(file, dtype=np.int64, ndmin=2).T)
