"""The whole path on a real subset: tables, pipeline, servables, a server in its own process, the client."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from same_lists import assert_same_lists

from twotower.features.errors import InputError
from twotower.pipeline import batch_units
from twotower.pipeline.batch import recommend_all
from twotower.pipeline.lookup import Customer, People
from twotower.pipeline.pushed import pushed
from twotower_client import InvalidRequestError, Recommender, UnavailableError

ROOT = Path(__file__).parents[2]
HOUSEHOLDS = 200
LIST = 20

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Shop:
    folder: Path
    out: Path
    spec: Path
    first_log: str
    log: str

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "twotower.pipeline.cli", *arguments]

    def run(self) -> subprocess.CompletedProcess[str]:
        command = self.command("run", "--spec", str(self.spec), "--out", str(self.out))
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def customers(self, count: int) -> list[Customer]:
        with np.load(self.answers) as answers:
            names = sorted(name.decode() for name in answers["users"])
        return People.of_run(self.out).customers(names[:count])

    @property
    def answers(self) -> Path:
        return next(self.out.glob("pipeline/CheckServable/summary/*/recommender.npz"))

    @property
    def versions(self) -> dict[str, list[str]]:
        return {
            folder.name: sorted(path.name for path in folder.iterdir())
            for folder in sorted((self.out / "serving").iterdir())
        }


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A run over 200 households that was killed while training, and then run again to its end."""
    folder = tmp_path_factory.mktemp("shop")
    data = folder / "data"
    example = ROOT / "examples" / "complete_journey"
    prepare = [sys.executable, str(example / "prepare.py"), "--out", str(data), "--households", str(HOUSEHOLDS)]
    subprocess.run(prepare, check=True, capture_output=True)
    bought = pd.read_parquet(data / "purchases.parquet", columns=["product_id"]).product_id.unique()
    products = pd.read_parquet(data / "products.parquet")
    never = products[~products.product_id.isin(bought)].head(500)
    pd.concat([products[products.product_id.isin(bought)], never]).to_parquet(data / "products.parquet", index=False)
    spec = yaml.safe_load((example / "spec.yaml").read_text())
    spec["retrieval"] = {"epochs": 1, "events_per_epoch": 40_000, "embedding_dim": 32}
    spec["ranking"] = {"epochs": 8, "snapshots": 4, "learning_rate": 0.005}
    spec["serving"] = {"exact_below": 1000}
    spec["batch"] = {"k": LIST}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    shop = Shop(folder, folder / "out", folder / "spec.yaml", "", "")
    first_log = run_until(shop, "Trainer.retrieval")
    done = shop.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return Shop(shop.folder, shop.out, shop.spec, first_log, done.stdout)


def run_until(shop: Shop, step: str) -> str:
    """Start a run and kill it, with -9, as soon as it says that it is in ``step``."""
    command = shop.command("run", "--spec", str(shop.spec), "--out", str(shop.out))
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stdout is not None
    said = ""
    for line in run.stdout:
        said += line
        if step in line:
            time.sleep(2)
            os.killpg(run.pid, signal.SIGKILL)
            break
    run.wait()
    return said


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def serve(shop: Shop, port: int) -> subprocess.Popen[str]:
    folder = str(shop.out / "serving" / "recommender")
    server = subprocess.Popen(
        shop.command("serve", "--model-dir", folder, "--port", str(port)), stdout=subprocess.PIPE, text=True
    )
    with Recommender(f"localhost:{port}") as client:
        client.wait_until_ready(timeout=60)
    return server


@pytest.fixture(scope="module")
def server(shop: Shop, port: int) -> Iterator[subprocess.Popen[str]]:
    process = serve(shop, port)
    yield process
    process.terminate()
    assert process.wait(timeout=30) == 0


def statuses(log: str) -> dict[str, str]:
    """Each step's status, read off the lines that a person sees."""
    found = re.findall(r"^\s*\d+/\d+ (\S+)\n(?:    \S.*\n)*      (ran|cached|failed) in", log, re.MULTILINE)
    return dict(found)


def test_a_killed_run_goes_on_at_the_step_it_was_in(shop: Shop) -> None:
    before, after = statuses(shop.first_log), statuses(shop.log)
    assert list(before.values()) == ["ran"] * 5
    assert {after[step] for step in before} == {"cached"}
    assert after["Trainer.retrieval"] == "ran"
    assert after["Pusher"] == "ran"


def test_both_servables_are_pushed_as_one_version(shop: Shop) -> None:
    versions = shop.versions
    assert set(versions) == {"recommender", "recommender_portable"}
    assert versions["recommender"] == versions["recommender_portable"]
    [version] = versions["recommender"]
    assert f"pushed as version {version}" in shop.log
    card = json.loads((shop.out / "serving/recommender" / version / "assets.extra/model_card.json").read_text())
    assert card["index"] == "scann"
    assert set(card["signatures"]) == {
        "recommend", "recommend_timed", "retrieve", "rank", "similar_items", "embed_query", "embed_items",
    }  # fmt: skip


def test_a_run_with_nothing_changed_comes_from_the_cache(shop: Shop) -> None:
    before = shop.versions
    again = shop.run()
    assert again.returncode == 0
    assert set(statuses(again.stdout).values()) == {"cached"}
    assert shop.versions == before


def test_the_terminal_is_ours(shop: Shop) -> None:
    assert "tensorflow" not in shop.log
    assert "WARNING" not in shop.log
    assert "epoch 1/1" in shop.log


def test_the_report_tells_the_run(shop: Shop) -> None:
    page = (shop.out / "report.html").read_text()
    for part in ("bought most often", "popularity", "quantity of 0", "Trainer.ranking", "simulated data", "scann"):
        assert part in page


def test_offline_and_served_lists_are_equal(shop: Shop, server: subprocess.Popen[str], port: int) -> None:
    spec = yaml.safe_load(shop.spec.read_text())
    start = int(pd.Timestamp(spec["split"]["test_from"], tz="UTC").timestamp())
    with np.load(shop.answers) as answers:
        offline = {
            name.decode(): ([item.decode() for item in items], scores)
            for name, items, scores in zip(answers["users"], answers["recommend"], answers["scores"], strict=True)
        }
    k = len(next(iter(offline.values()))[0])
    with Recommender(f"localhost:{port}", timeout=20) as client:
        pairs = []
        for customer in shop.customers(50):
            past = [event for event in zip(customer.items, customer.times, strict=True) if event[1] < start]
            served = client.recommend(customer.user_id, past, k=k, user=customer.features, time=start)
            items, scores = offline[customer.user_id]
            ranked = [(item, float(score)) for item, score in zip(items, scores, strict=True) if item]
            pairs.append(([(item.item_id, item.score) for item in served.items], ranked))
    assert_same_lists(pairs)


def test_batch_lists_are_those_of_the_server(
    shop: Shop, server: subprocess.Popen[str], port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_units, "UNIT", 128)
    users = five_hundred(pq.read_table(sorted((shop.out / "lookup").glob("histories*"))))
    pq.write_table(users, tmp_path / "histories")
    model, out = pushed(shop.out / "serving"), tmp_path / "lists"
    counts = recommend_all(model, [tmp_path / "histories"], None, LIST, out, beam.Pipeline())
    assert counts == {"users": 500, "items": 500 * LIST, "short": 0, "files": 4, "there": 0}
    lists = pq.read_table(sorted(out.glob("lists-*"))).to_pylist()
    pairs = []
    with Recommender(f"localhost:{port}", timeout=20) as client:
        for user, made in zip(users.to_pylist(), lists, strict=True):
            history = list(zip(user["item_ids"], user["times"], strict=True))
            answer = client.recommend(user["user_id"], history, k=LIST, user=json.loads(user["features"]))
            assert (made["user_id"], made["model_version"]) == (user["user_id"], answer.model_version)
            served = [(item.item_id, item.score) for item in answer.items]
            pairs.append((served, list(zip(made["item_ids"], made["scores"], strict=True))))
    assert_same_lists(pairs)


def five_hundred(histories: pa.Table) -> pa.Table:
    """The households, and others with the beginning of one of their histories each."""
    rows = histories.to_pylist()
    for number in range(500 - len(rows)):
        row = rows[number % HOUSEHOLDS]
        length = len(row["times"]) * (1 + number // HOUSEHOLDS) // 3
        shorter = {name: row[name][:length] for name in ("item_ids", "times")}
        rows.append({**row, **shorter, "user_id": f"other {number}"})
    return pa.Table.from_pylist(rows, histories.schema)


def test_batch_goes_on_where_it_was(shop: Shop, tmp_path: Path) -> None:
    model, histories = pushed(shop.out / "serving"), sorted((shop.out / "lookup").glob("histories*"))
    wanted = [customer.user_id for customer in shop.customers(3)] + ["nobody", "nobody"]
    out = tmp_path / "lists"
    first = recommend_all(model, histories, wanted, LIST, out, beam.Pipeline())
    assert (first["users"], first["files"], first["there"]) == (4, 2, 0)
    made = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    lost = out / max(made)
    lost.unlink()
    (out / f".{lost.name}.killed.partial").write_bytes(b"half")
    second = recommend_all(model, histories, wanted, LIST, out, beam.Pipeline())
    assert second == {**first, "there": 1}
    assert {path.name: path.read_bytes() for path in out.glob("*.parquet")} == made
    assert sorted(path.name for path in out.iterdir()) == ["batch.json", *sorted(made)]
    for others, k in ((None, LIST), (wanted[:2], LIST), (wanted, 5)):
        with pytest.raises(InputError, match="holds another job's lists"):
            recommend_all(model, histories, others, k, out, beam.Pipeline())


def test_the_batch_step_writes_everybodys_lists_once_a_version_is_pushed(shop: Shop) -> None:
    assert f"lists of {HOUSEHOLDS} users, {HOUSEHOLDS * LIST:,} items in them" in shop.log
    lists = pq.read_table(sorted((shop.out / "lists").glob("lists-*"))).to_pylist()
    assert len({row["user_id"] for row in lists}) == HOUSEHOLDS
    assert {str(row["model_version"]) for row in lists} == set(shop.versions["recommender"])
    assert {len(set(row["item_ids"])) for row in lists} == {LIST}


def test_worker_processes_write_the_lists_of_the_batch_step(shop: Shop, tmp_path: Path) -> None:
    everybody = pq.read_table(sorted((shop.out / "lists").glob("lists-*"))).to_pylist()
    user = everybody[0]["user_id"]
    column = yaml.safe_load(shop.spec.read_text())["users"]["id"]
    (tmp_path / "users.csv").write_text(f"{column}\n{user}\nnobody\n")
    asked = ("batch", "--run", str(shop.out), "--k", str(LIST), "--out", str(tmp_path / "lists"))
    workers = ("--beam-runner", "direct", "--", "--direct_num_workers=2")
    done = subprocess.run(
        shop.command(*asked, "--users", str(tmp_path / "users.csv"), *workers),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "lists of 2 users" in done.stdout
    known, new = pq.read_table(sorted((tmp_path / "lists").glob("lists-*"))).to_pylist()
    assert (known["user_id"], new["user_id"], len(new["item_ids"])) == (user, "nobody", LIST)
    pairs = [list(zip(row["item_ids"], row["scores"], strict=True)) for row in (known, everybody[0])]
    assert_same_lists([(pairs[0], pairs[1])])


def test_events_after_the_request_change_nothing(shop: Shop, server: subprocess.Popen[str], port: int) -> None:
    customer = shop.customers(1)[0]
    moment = customer.times[len(customer.times) // 2]
    events = list(zip(customer.items, customer.times, strict=True))
    with Recommender(f"localhost:{port}", timeout=20) as client:
        everything = client.recommend(customer.user_id, events, time=moment)
        past = client.recommend(customer.user_id, [event for event in events if event[1] < moment], time=moment)
    assert [item.item_id for item in everything.items] == [item.item_id for item in past.items]


def test_what_a_client_may_rely_on(shop: Shop, server: subprocess.Popen[str], port: int) -> None:
    customer = shop.customers(1)[0]
    events = list(zip(customer.items, customer.times, strict=True))
    with Recommender(f"localhost:{port}", timeout=20) as client:
        answer = client.recommend(customer.user_id, events, k=20)
        names = [item.item_id for item in answer.items]
        assert len(set(names)) == 20
        assert set(answer.items[0].scores) == {"bought", "quantity"}
        without = client.recommend(customer.user_id, events, k=20, exclude=names[:10])
        assert not set(names[:10]) & {item.item_id for item in without.items}
        ranked = client.rank(customer.user_id, events, candidates=names[::-1])
        assert [item.item_id for item in ranked.items] == names
        assert len(client.recommend("nobody", k=5).items) == 5
        assert len(client.recommend("nobody", [("no such item", 1_500_000_000)], k=5).items) == 5
        assert len(client.similar_items(names[0], k=5).items) == 5
        assert client.similar_items("no such item", k=5).items == ()
        for k in (0, 10_000_000):
            with pytest.raises(InvalidRequestError, match="k: expected"):
                client.recommend(customer.user_id, k=k)
        with pytest.raises(InvalidRequestError, match="did you mean 'income'"):
            client.recommend(customer.user_id, user={"incom": "35-49K"})


def test_the_command_line_asks(shop: Shop, server: subprocess.Popen[str], port: int) -> None:
    customer = shop.customers(1)[0]
    asked = ("--out", str(shop.out), "--server", f"localhost:{port}")
    for arguments in (("recommend", "--user", customer.user_id), ("similar", "--item", customer.items[-1])):
        done = subprocess.run(shop.command(*arguments, *asked), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "rank" in done.stdout
    unknown = subprocess.run(
        shop.command("similar", "--item", "none", *asked), capture_output=True, text=True, check=False
    )
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("twotower: item 'none': not in the catalogue of")


def test_a_killed_server_is_an_error_and_comes_back(shop: Shop) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = int(free.getsockname()[1])
    process = serve(shop, port)
    with Recommender(f"localhost:{port}", timeout=10) as client:
        assert client.recommend("nobody").items
        process.kill()
        process.wait()
        with pytest.raises(UnavailableError):
            client.recommend("nobody", timeout=2)
        again = serve(shop, port)
        client.wait_until_ready(timeout=60)
        assert client.recommend("nobody").items
    again.terminate()
    assert again.wait(timeout=30) == 0


def test_other_models_go_through_the_same_steps_and_are_judged(shop: Shop) -> None:
    spec = yaml.safe_load(shop.spec.read_text())
    spec["retrieval"] = {"model": "graph_tower", "factors": 64}
    spec["ranking"] = {"model": "neumf", "epochs": 5}
    file = shop.folder / "other.yaml"
    file.write_text(yaml.safe_dump(spec))
    before = shop.versions
    done = replace(shop, spec=file).run()
    ran = statuses(done.stdout)
    assert ran["Transform"] == "cached"
    assert {ran[step] for step in ("Trainer.retrieval", "Trainer.ranking", "BuildIndex", "Compose")} == {"ran"}
    # NeuMF knows no repeats: in this shop it is far below popularity, and the version in use stays.
    assert done.returncode == 3
    assert re.search(r"not blessed: ndcg@20 0\.\d+ does not beat popularity's 0\.\d+", done.stdout)
    assert shop.versions == before
