"""benchmarks/scale.py: the shops that it makes, the fit, the watching of a run, and the page's arithmetic."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import scale

    return scale


@pytest.fixture
def tables(scale: Any) -> Any:
    import shop_tables

    return shop_tables


@pytest.fixture
def costs(scale: Any) -> Any:
    import cost_fit

    return cost_fit


@pytest.fixture
def sizing(scale: Any) -> Any:
    import sizing_page

    return sizing_page


@pytest.fixture
def watched(scale: Any) -> Any:
    import watched_run

    return watched_run


@pytest.fixture
def made(tables: Any) -> Any:
    return tables.purchases(tables.Size(200_000, 20_000, 5_000), seed=1)


def test_a_shop_has_its_size_and_comes_from_its_seed(tables: Any, made: Any) -> None:
    assert len(made.users) == len(made.items) == len(made.times) == len(made.pieces) == 200_000
    assert set(made.users.tolist()) == set(range(20_000))
    assert made.items.min() >= 0
    assert made.items.max() < 5_000
    assert (np.diff(made.times) >= 0).all()
    assert made.times[0] >= tables.START
    assert made.times[-1] < tables.END
    size = tables.Size(200_000, 20_000, 5_000)
    again, other = tables.purchases(size, seed=1), tables.purchases(size, seed=2)
    for name in ("users", "items", "times", "pieces", "listed"):
        assert np.array_equal(getattr(again, name), getattr(made, name))
        assert not np.array_equal(getattr(other, name), getattr(made, name))


def test_items_sell_by_zipfs_law(tables: Any) -> None:
    items = tables.purchases(tables.Size(400_000, 100_000, 1_000), seed=1).items
    sold = np.sort(np.bincount(items, minlength=1_000))[::-1]
    # On log-log axes of shifted ranks a line with the exponent's slope, but for what repeats and the late ones bend.
    ranks = np.log(np.arange(1_000) + 1 + tables.ZIPF_SHIFT)[:600]
    slope = np.polyfit(ranks, np.log(sold[:600]), 1)[0]
    assert -1.3 < slope < -0.9


def test_users_are_log_normal(tables: Any) -> None:
    counts = np.bincount(tables.purchases(tables.Size(1_000_000, 5_000, 100), seed=1).users)
    logs = np.log(counts)
    assert logs.std() == pytest.approx(tables.ACTIVITY_SIGMA, rel=0.05)
    # The mean of a log-normal is e^(sigma^2 / 2) times its median.
    assert counts.mean() / np.median(counts) == pytest.approx(np.exp(tables.ACTIVITY_SIGMA**2 / 2), rel=0.05)


def test_weekends_sell_more(tables: Any, made: Any) -> None:
    sold = np.bincount((made.times - tables.START) // tables.DAY % 7)
    assert np.allclose(sold / sold.sum(), tables.WEEK / tables.WEEK.sum(), atol=0.01)


def test_what_is_new_is_bought_from_its_day_on(tables: Any, made: Any) -> None:
    assert (made.times >= made.listed[made.items]).all()
    assert (made.listed == tables.START).mean() == pytest.approx(tables.OLD_SHARE, abs=0.03)


def test_a_shop_grows_as_users_join(tables: Any, made: Any) -> None:
    # Who joins at the share j of the year buys 1 / (1 - j) times as fast from then on: at the share t sales are
    # old + new x -ln(1 - t), of which these are the means over the first and the last thirteenth.
    weeks = np.bincount((made.times - tables.START) // (28 * tables.DAY))
    part, new = 1 / len(weeks), 1 - tables.OLD_SHARE
    first = tables.OLD_SHARE + new * (1 + (1 - part) * np.log(1 - part) / part)
    last = tables.OLD_SHARE + new * (1 - np.log(part))
    assert len(weeks) == 13
    assert weeks[-1] / weeks[0] == pytest.approx(last / first, rel=0.1)


def test_purchases_repeat(tables: Any) -> None:
    # In so large a catalogue hardly anything repeats by chance.
    made = tables.purchases(tables.Size(100_000, 5_000, 2_000_000), seed=1)
    pairs = len(np.unique(made.users * 2_000_000 + made.items))
    may = 100_000 - 5_000
    assert (100_000 - pairs) / may == pytest.approx(tables.REPEAT_SHARE, abs=0.02)
    baskets = len(np.unique(made.users * (1 << 40) + made.times))
    assert 100_000 / baskets == pytest.approx(tables.BASKET, rel=0.25)


def test_a_shop_without_room_for_its_users_is_refused(tables: Any) -> None:
    with pytest.raises(ValueError, match="from 1 to 10 users"):
        tables.Size(10, 11, 5)


def test_tables_hold_the_shop(tables: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_A_FILE", 300)
    size = tables.Size(1_000, 100, 50)
    tables.write(tmp_path / "shop", size, seed=1)
    files = sorted((tmp_path / "shop").glob("purchases-*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [300, 300, 300, 100]
    found, made = pq.read_table(tmp_path / "shop" / "items.parquet"), tables.purchases(size, seed=1)
    assert found["id"].to_pylist() == [f"i{item}" for item in range(50)]
    assert pq.read_table(files[0])["user"].to_pylist() == [f"u{user}" for user in made.users[:300]]
    assert pq.read_table(tmp_path / "shop" / "users.parquet").num_rows == 100


def test_the_fit_finds_what_costs_were_made_of(costs: Any, scale: Any) -> None:
    shops = [
        {"purchases": shop.size.rows, "users": shop.size.users, "items": shop.size.items}
        for shop in scale.shops(1_000_000)
    ]
    made = [3 + 2e-5 * shop["purchases"] + 4e-4 * shop["items"] for shop in shops]
    found = costs.fit(("purchases", "users", "items"), shops, made)
    assert found.start == pytest.approx(3)
    assert found.each == pytest.approx({"purchases": 2e-5, "users": 0, "items": 4e-4}, abs=1e-9)
    assert found.worst < 1e-6
    assert found.at({"purchases": 1e6, "users": 0, "items": 1e5}) == pytest.approx(63)
    # One shop that is off shows.
    assert costs.fit(("purchases", "users", "items"), shops, [1.5 * made[0], *made[1:]]).worst > 0.05


def test_every_driver_of_a_step_varies_by_itself(costs: Any, scale: Any) -> None:
    shops = [
        scale.Measured(s, s.size.users * s.test_days // 50, s.snapshots * s.size.users, {}) for s in scale.shops(10**6)
    ]
    for names in costs.OF_STEP.values():
        table = np.array([[1.0, *(one.drivers[name] for name in names)] for one in shops])
        assert np.linalg.matrix_rank(table / np.abs(table).max(axis=0)) == len(names) + 1


def test_too_few_shops_are_refused(costs: Any) -> None:
    with pytest.raises(ValueError, match="found 1 shops, expected more than the 1 drivers users"):
        costs.fit(("users",), [{"users": 1.0}], [1.0])


def test_a_straight_line_has_no_bend(costs: Any) -> None:
    rows = [1e4, 1e5, 1e6]
    assert costs.bend(rows, [40 + 3e-5 * n for n in rows]) == pytest.approx(0)
    assert costs.bend(rows, [n * n for n in rows]) == pytest.approx(9)


def test_the_page_shows_sums_that_come_out(costs: Any, sizing: Any) -> None:
    found = costs.Fit(12.0, {"purchases": 2e-5, "users": 0.0, "items": 3e-4}, 0.1)
    drivers = {"purchases": 1e8, "users": 1e7, "items": 1e7}
    text = sizing.arithmetic(found, drivers)
    assert text == "12 + 100 x 20 + 10 x 300"
    assert found.at(drivers) == 12 + 100 * 20 + 10 * 300
    assert [sizing.number(n) for n in (0, 0.0123, 1.5, 123.4, 5012.0)] == ["0", "0.0123", "1.5", "123", "5,012"]
    assert [sizing.duration(s) for s in (40, 600, 7_200, 200_000)] == ["40 s", "10 min", "2 h", "2.3 days"]


def test_a_step_without_a_fit_stands_with_what_is_known(costs: Any, sizing: Any) -> None:
    ingest = costs.Fit(12.0, {"purchases": 2e-5}, 0.1)
    known = sizing.or_paper({"Ingest": ingest, "BuildIndex": ingest})
    marked = {step for step in known if step.endswith(" *")}
    assert marked == {"Trainer.retrieval *", "EvaluateRetrieval *", "Trainer.ranking *", "CheckServable *"}
    assert next(iter(known)) == "Ingest"
    assert known["Ingest"] is known["BuildIndex"] is ingest
    assert known["Trainer.retrieval *"].at({"draws": 161_464e3}) == pytest.approx(1_000)
    papers = sizing.or_paper({})
    assert papers["BuildIndex *"].at({"items": 1e7}) == pytest.approx(1_300)
    # Two measurements of one step add up to the larger of them.
    assert papers["Ingest *"].at({"purchases": 1_469_307, "items": 92_334}) == pytest.approx(17.4, abs=0.01)
    drivers = {"purchases": 1_469_307.0, "items": 92_334.0, "asked": 0.0, "lists": 1.0, "draws": 0.0}
    first = sizing.engines_table(papers, sizing.Plan("a day", drivers, ""))[2]
    assert first == "| direct, `in_memory` | 17.4 | one, done in 17.4 s | one, done in 17.4 s |"


def test_memory_is_what_the_arrays_have(sizing: Any) -> None:
    found = sizing.held({"purchases": 1e8, "users": 1e7, "items": 1e7, "lists": 1e6})
    for one in found:
        text = one.sum.replace(",", "").replace(" x ", " * ")
        assert one.nbytes == pytest.approx(eval(text)), one.what


def test_workers_share_the_beam_steps(costs: Any, sizing: Any) -> None:
    assert sizing.workers(sizing.BUSY * 3_600 * 10, hours=1, dearer=1) == 10
    assert sizing.workers(sizing.BUSY * 3_600 * 10, hours=4, dearer=2) == 5
    assert sizing.workers(1, hours=1, dearer=1) == 1


def test_a_limit_is_met_where_the_cost_says(costs: Any, sizing: Any) -> None:
    drivers = sizing.with_products({"purchases": 1e8, "items": 1e7, "asked": 1e5, "lists": 1.0})
    assert sizing.reached(costs.Fit(0.0, {"purchases": 1e-6}, 0.0), drivers, 25.0) == pytest.approx(0.25)
    assert sizing.reached(costs.Fit(0.0, {"asked x items": 1e-10}, 0.0), drivers, 25.0) == pytest.approx(0.5)
    assert sizing.reached(costs.Fit(1.0, {}, 0.0), drivers, 25.0) is None


def test_a_run_is_read_step_by_step(watched: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # In the place of the command, for what it prints: a step computes, one holds 200 MB, and the third is cut off.
    program = """
import os, signal, time
print(" 1/3 First", flush=True)
end = time.process_time() + 1.0
while time.process_time() < end: pass
print("      ran in 1.0 s", flush=True)
print(" 2/3 Second", flush=True)
print("    1,234 lists at 6 snapshots, 5 positives, 7 features", flush=True)
held = b"1" * 200_000_000
time.sleep(2.5)
print("      cached in 2.5 s", flush=True)
print(" 3/3 Third", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    monkeypatch.setattr(watched, "command", lambda *_: [sys.executable, "-c", program])
    found = watched.watch(tmp_path, tmp_path, seconds=300)
    assert list(found.steps) == ["start", "First", "Second"]
    assert found.lists == 1_234
    assert found.steps["First"].cpu == pytest.approx(1.0, abs=0.5)
    assert found.steps["Second"].seconds > 2.4
    assert found.steps["Second"].peak_mb - found.steps["First"].peak_mb == pytest.approx(200, rel=0.1)


def test_a_run_is_stopped_in_time(watched: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(watched, "command", lambda *_: [sys.executable, "-c", "import time; time.sleep(600)"])
    assert watched.watch(tmp_path, tmp_path, seconds=1) == watched.Watched({}, 0)


def test_a_failed_run_is_an_error(watched: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = "print(' 1/3 First'); print('twotower: no such column'); raise SystemExit(2)"
    monkeypatch.setattr(watched, "command", lambda *_: [sys.executable, "-c", program])
    with pytest.raises(RuntimeError, match=r"(?s)failed in First.*no such column"):
        watched.watch(tmp_path, tmp_path, seconds=300)


def test_what_was_measured_is_read_back_and_makes_both_pages(scale: Any, tmp_path: Path) -> None:
    def cost(shop: Any, step: str) -> Any:
        return scale.Cost(9.0, 5 + 1e-5 * shop.size.rows + 1e-4 * shop.size.items, 900 + 1e-3 * shop.size.rows)

    found = [
        scale.Measured(s, s.size.users * s.test_days // 50, 10 * s.snapshots, {n: cost(s, n) for n in scale.OF_STEP})
        for s in scale.shops(100_000)
    ]
    scale.save(found, tmp_path / "measured.json")
    assert scale.load(tmp_path / "measured.json") == found
    text = scale.results(found)
    assert "| Ingest, StatisticsGen and Transform | 60.0 | 60.0 | 60.0 | +0% |" in text
    assert "| Ingest | 20.0 | 20.0 | 20.0 | +0% |" in text
    page = scale.page(
        scale.fits(found, "cpu"), scale.fits(found, "peak_mb"), scale.plans(*scale.TARGET), scale.summary(found)
    )
    assert "| Ingest | 5 + 100 x 10 + 10 x 100 = 2,005 | 33.4 min |" in page


def test_the_kept_pages_are_those_of_the_kept_measurement(scale: Any) -> None:
    found = scale.load(scale.KEPT)
    assert (scale.KEPT.parent / "results.md").read_text(encoding="utf-8") == scale.results(found)
    page = scale.page(
        scale.fits(found, "cpu"), scale.fits(found, "peak_mb"), scale.plans(*scale.TARGET), scale.summary(found)
    )
    assert (scale.HERE.parent / "docs" / "sizing.md").read_text(encoding="utf-8") == page
