"""`twotower refresh` after a run in two stages: new products come, removed ones go, and a bad table changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import yaml
from test_splits_end_to_end import KINDS, OWN, events

from twotower.pipeline.servable_calls import call, inputs
from twotower.serving import servable

SPEC: dict[str, Any] = {
    "name": "shop",
    "interactions": {"path": "events.csv", "user": "user", "item": "item", "time": "time"},
    "items": {
        "path": "items.csv",
        "id": "item",
        "features": {"kind": {"kind": "category"}, "price": {"kind": "number"}},
    },
    "split": {"kind": "leave_last_out"},
    "retrieval": {"embedding_dim": 16, "graph_factors": 16, "epochs": 3, "events_per_epoch": 20_000, "min_id_count": 1},
    "ranking": {"candidates": 20, "snapshots": 1, "list_size": 32, "epochs": 8, "trees": 5},
    "evaluation": {"cutoffs": [5], "min_slice_users": 5, "resamples": 50, "retrieval_task": "all"},
    "serving": {
        "exact_below": 1000,
        "shape": "two_stage",
        "rules": {"filters": ["kind", "price"], "caps": ["kind"], "diversity": True, "allow_list": True},
    },
}
FOLDERS = {"recommender_ranking", "recommender_retrieval", "recommender_retrieval_portable"}
NEW, GONE = b"brand_new", b"k0_0"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Shop:
    folder: Path

    def command(self, name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "twotower.pipeline.cli", name, "--spec", str(self.folder / "spec.yaml")]
        return subprocess.run(
            [*command, "--out", str(self.folder / "out")], capture_output=True, text=True, check=False
        )

    @property
    def versions(self) -> dict[str, list[str]]:
        folders = sorted((self.folder / "out" / "serving").iterdir())
        return {folder.name: sorted(path.name for path in folder.iterdir()) for folder in folders}

    def ask(self, version: str, k: int, **given: Any) -> list[list[bytes]]:
        """Lists of two users by both stages: one who bought an item of kind 1, and one who did nothing."""
        serving = self.folder / "out" / "serving"
        stages = [serving / "recommender_retrieval_portable" / version, serving / "recommender_ranking" / version]
        models = [servable.load(folder) for folder in stages]
        request = {}
        history = {"history_item_ids": [[b"k1_3"], [b""]], "history_times": [[1_690_000_000], [0]], "k": k}
        for name, spec in inputs(models, "recommend").items():
            empty = np.nan if spec.dtype.is_floating else b"" if spec.dtype.name == "string" else 0
            shape = [2, 0] if spec.shape.rank == 2 else [2]
            value = {**history, **given}.get(name, np.full(shape, empty))
            request[name] = tf.constant(value, spec.dtype, shape=None if np.size(value) else shape)
        answer = call(models, "recommend", request)
        assert [row for row in answer["scores"].numpy() if (np.diff(row[np.isfinite(row)]) > 0).any()] == []
        return [[name for name in row if name] for row in answer["item_ids"].numpy().tolist()]


def items() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"item": f"k{kind}_{item}", "kind": f"kind {kind}", "price": 1.0 + item}
            for kind in range(KINDS)
            for item in range(OWN)
        ]
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("refreshed")
    events().drop(columns="kind").to_csv(folder / "events.csv", index=False)
    items().to_csv(folder / "items.csv", index=False)
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    shop = Shop(folder)
    done = shop.command("run")
    assert done.returncode == 0, done.stdout + done.stderr
    return shop


def test_new_products_come_removed_ones_go_and_the_rest_stays(shop: Shop) -> None:
    (first,) = shop.versions["recommender_ranking"]
    assert shop.versions == {folder: [first] for folder in FOLDERS}
    before = shop.ask(first, 10, filter_kind=[[b"kind 2"]] * 2)
    new = {"item": NEW.decode(), "kind": "kind 1", "price": 0.5}
    table = items()[lambda table: table.item != GONE.decode()]
    pd.concat([table, pd.DataFrame([new])]).to_csv(shop.folder / "items.csv", index=False)
    done = shop.command("refresh")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "60 items, 1 of them new; 1 are gone" in done.stdout
    _, second = shop.versions["recommender_ranking"]
    assert shop.versions == {folder: [first, second] for folder in FOLDERS}
    everything = shop.ask(second, 60)
    for row in everything:
        assert GONE not in row
    found = shop.ask(second, 60, allowed_item_ids=[[NEW, GONE, b"k1_3"]] * 2)
    assert [set(row) for row in found] == [{NEW, b"k1_3"}] * 2
    assert set(shop.ask(second, 20, above_price=[0.0, 0.0], below_price=[0.9, 0.9])[1]) == {NEW}
    # What did not change is ranked as before.
    assert shop.ask(second, 10, filter_kind=[[b"kind 2"]] * 2) == before
    capped = shop.ask(second, 10, cap_kind=[1, 1])
    kinds = {**dict(zip(items().item, items().kind, strict=True)), NEW.decode(): "kind 1"}
    assert all(len({kinds[name.decode()] for name in row}) == len(row) for row in capped)
    card = json.loads(
        (shop.folder / "out/serving/recommender_retrieval" / second / "assets.extra/model_card.json").read_text()
    )
    assert (card["items"], card["version"]) == (60, int(second))


def test_a_bad_table_is_one_error_and_changes_nothing(shop: Shop) -> None:
    before = shop.versions
    table = items()
    pd.concat([table, table.head(1)]).to_csv(shop.folder / "items.csv", index=False)
    done = shop.command("refresh")
    assert done.returncode == 2
    assert "found the id 'k0_0' twice, expected each id once" in done.stderr
    table.drop(columns="kind").to_csv(shop.folder / "items.csv", index=False)
    assert shop.command("refresh").returncode == 2
    assert shop.versions == before
    assert not list((shop.folder / "out").glob(".refresh-*"))
