"""The demonstration's tables: their known sizes, written once, with prices that know nothing of the test period."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from twotower.features import spec

FOLDER = Path(__file__).parents[2] / "examples" / "complete_journey"
PREPARE = FOLDER / "prepare.py"
NAMES = ("purchases", "products", "households", "promotions")


def prepare(out: Path, *options: str) -> str:
    command = [sys.executable, str(PREPARE), "--out", str(out), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("complete_journey")
    printed = prepare(out)
    for name, rows in zip(NAMES, ("1,469,307", "92,331", "801", "1,184,798"), strict=True):
        assert f"{name}.parquet: {rows} rows" in printed
    return out


def test_the_tables_have_the_known_sizes(tables: Path) -> None:
    assert sorted(file.name for file in tables.iterdir()) == sorted(f"{name}.parquet" for name in NAMES)
    found = {name: pd.read_parquet(tables / f"{name}.parquet") for name in NAMES}
    assert {name: len(table) for name, table in found.items()} == {
        "purchases": 1_469_307, "products": 92_331, "households": 801, "promotions": 1_184_798,
    }  # fmt: skip
    assert found["purchases"].household_id.nunique() == 2_469
    assert found["products"].product_id.is_unique
    assert found["households"].household_id.is_unique


def test_a_second_call_does_nothing(tables: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in tables.iterdir()}
    assert "the tables are there" in prepare(tables)
    assert {file: file.stat().st_mtime_ns for file in tables.iterdir()} == before


def test_the_spec_reads_these_tables(tables: Path) -> None:
    paths = {name: str(tables / file) for name, file in zip(
        ("interactions", "items", "users", "promotions"), (f"{name}.parquet" for name in NAMES), strict=True
    )}  # fmt: skip
    shop = spec.load(FOLDER / "spec.yaml", paths)
    assert [file.name for _, file in shop.files] == [
        "purchases.parquet", "households.parquet", "products.parquet", "promotions.parquet",
    ]  # fmt: skip
    assert isinstance(shop.split, spec.TimeSplit)
    assert pd.Timestamp(shop.split.start, unit="s") == runpy.run_path(str(PREPARE))["PRICES_UNTIL"]


def test_prices_use_nothing_from_the_test_period(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = runpy.run_path(str(PREPARE))
    source = module["get_data"](["transactions", "products", "demographics", "promotions"])
    transactions = source["transactions"].copy()
    future = (transactions.transaction_timestamp >= pd.Timestamp("2017-12-01")).to_numpy()
    transactions.loc[future, "sales_value"] = 1e6
    changed = module["tables"].__globals__
    monkeypatch.setitem(changed, "get_data", lambda _: {**source, "transactions": transactions})
    prices = module["tables"]()["products"].set_index("product_id").price
    written = pd.read_parquet(tables / "products.parquet").set_index("product_id").price
    pd.testing.assert_series_equal(prices, written)
    sold = transactions[~future & (transactions.quantity > 0).to_numpy()]
    assert set(written.dropna().index) == set(sold.product_id) & set(written.index)
    one = sold[sold.product_id == sold.product_id.iloc[0]]
    assert written[one.product_id.iloc[0]] == pytest.approx(np.median(one.sales_value / one.quantity))


def test_promotions_are_shares_of_the_shops_by_week() -> None:
    rows = [(7, 1, "0", "A", 2), (7, 2, "3", "0", 2), (7, 1, "5", "D", 53), (8, 2, "0", "0", 1)]
    by_shop = pd.DataFrame(rows, columns=["product_id", "store_id", "display_location", "mailer_location", "week"])
    found = runpy.run_path(str(PREPARE))["promotions"](by_shop)
    assert found.drop(columns=["starts", "ends"]).values.tolist() == [[7, 0.5, 0.5], [7, 0.5, 0.5], [8, 0, 0]]
    assert found.starts.dt.date.astype(str).tolist() == ["2017-01-02", "2017-12-25", "2016-12-26"]
    assert (found.ends - found.starts == pd.Timedelta(days=7)).all()


def test_weeks_are_those_of_the_purchases(tables: Path) -> None:
    week = runpy.run_path(str(PREPARE))["SECOND_WEEK"]
    source = runpy.run_path(str(PREPARE))["get_data"](["transactions"])["transactions"]
    counted = (source.transaction_timestamp - week).dt.days // 7 + 2
    assert (counted == source.week).mean() > 0.999


def test_a_few_households_for_a_quick_try(tmp_path: Path) -> None:
    prepare(tmp_path, "--households", "20")
    assert pd.read_parquet(tmp_path / "purchases.parquet").household_id.nunique() == 20
    assert len(pd.read_parquet(tmp_path / "products.parquet")) == 92_331
