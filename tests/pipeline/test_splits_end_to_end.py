"""`twotower run` to its end under the kinds of split that have no moment for everybody, on a made-up shop."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from twotower.pipeline.outputs import Outputs
from twotower.pipeline.scores import Scores

DAY = 86_400
# Users, their baskets, and the items that a user chooses among.
USERS, BASKETS, KINDS, OWN = 60, 8, 6, 10
NEWEST = 1_700_000_000
SPEC: dict[str, Any] = {
    "name": "shop",
    "interactions": {"path": "events.csv", "user": "user", "item": "item", "time": "time"},
    "items": {"from": "interactions", "id": "item", "duplicates": "last", "features": {"kind": {"kind": "category"}}},
    "context": {"hour": {"kind": "time", "part": "hour"}},
    "retrieval": {"model": "item_cosine", "factors": 16},
    "ranking": {"candidates": 20, "snapshots": 1, "list_size": 32, "epochs": 8},
    "evaluation": {"cutoffs": [5], "min_slice_users": 5, "resamples": 50},
    "serving": {"exact_below": 1000},
}

TWO_WORKERS = ("--beam-runner", "direct", "--", "--direct_num_workers=2")

pytestmark = pytest.mark.slow


def events() -> pd.DataFrame:
    """Users who buy of one kind alone, a favourite each time; each has a rhythm and an end of their own."""
    random = np.random.default_rng(5)
    rows = []
    for user in range(USERS):
        kind, end = user % KINDS, NEWEST - int(random.integers(0, 40 * DAY))
        favourite = int(random.integers(OWN))
        for basket in range(BASKETS):
            time = end - (BASKETS - 1 - basket) * 14 * DAY
            chosen = {favourite, *random.choice(OWN, 2, replace=False).tolist()}
            rows += [(f"u{user}", f"k{kind}_{item}", time, f"kind {kind}") for item in sorted(chosen)]
    return pd.DataFrame(rows, columns=["user", "item", "time", "kind"])


def run(folder: Path, split: dict[str, str], engine: Sequence[str] = (), **evaluation: int) -> tuple[Outputs, str]:
    spec = {**SPEC, "split": split, "evaluation": {**SPEC["evaluation"], **evaluation}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "twotower.pipeline.cli", "run"]
    done = subprocess.run(
        [*command, "--spec", str(folder / "spec.yaml"), "--out", str(folder / "out"), *engine],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Outputs(folder / "out", "shop"), (folder / "out" / "report.html").read_text()


def check(outputs: Outputs, test: pd.DataFrame, users: int) -> None:
    """So many users were asked, each at their own moment, and the numbers are of their whole test."""
    moments = test.groupby("user").time.min()
    with np.load(outputs.folder("CheckServable", "summary") / "recommender.npz") as answers:
        asked = dict(zip((name.decode() for name in answers["users"]), answers["times"].tolist(), strict=True))
    assert len(asked) == users
    assert asked.items() <= moments.to_dict().items()
    scores = Scores.load(outputs.folder("CheckServable", "summary") / "scores.json")
    ours = scores.find("recommender", "catalogue", "all")
    popularity = Scores.load(outputs.folder("EvaluateRetrieval", "summary") / "scores.json").find(
        "popularity", "catalogue", "all"
    )
    assert ours is not None
    assert popularity is not None
    assert ours.users == users
    assert ours.of("recall@5") > 2 * popularity.of("recall@5")


def test_leave_last_out(tmp_path: Path) -> None:
    table = events()
    table.to_csv(tmp_path / "events.csv", index=False)
    outputs, report = run(tmp_path, {"kind": "leave_last_out"})
    check(outputs, table[table.time == table.groupby("user").time.transform("max")], USERS)
    assert "leave last out: each user&#39;s last basket is the test" in report


def test_given_and_only_some_users_asked_on_two_worker_processes(tmp_path: Path) -> None:
    table = events()
    last = table.groupby("user").time.transform("max")
    test = (table.time > last - 20 * DAY) & (table.user.str[-1] < "5")
    table[~test].to_csv(tmp_path / "events.csv", index=False)
    table[test].to_csv(tmp_path / "later.csv", index=False)
    outputs, report = run(tmp_path, {"kind": "given", "test": "later.csv"}, TWO_WORKERS, max_users=20)
    assert table[test].user.nunique() == USERS // 2
    check(outputs, table[test], 20)
    assert "given test: later.csv" in report
