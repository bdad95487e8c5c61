"""The second shop's spec on a part of the real file: each rule's count, and what is left, against pandas."""

from pathlib import Path

import apache_beam as beam
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions

from twotower.features import spec
from twotower.pipeline import cli, ingest

ROOT = Path(__file__).parents[2]
SPEC = ROOT / "examples" / "online_retail" / "spec.yaml"
DATA = ROOT.parent / "shared" / "data" / "online-retail" / "online_retail.parquet"
SPLIT = pd.Timestamp("2011-11-01")

pytestmark = pytest.mark.skipif(
    not DATA.exists(), reason="the Online Retail file is not there; see the example's README"
)


@pytest.fixture(scope="module")
def lines() -> pd.DataFrame:
    return pd.read_parquet(DATA)


@pytest.fixture(scope="module")
def part(lines: pd.DataFrame) -> pd.DataFrame:
    """All lines of 300 customers, and every 100th line without one."""
    customers = sorted(lines.CustomerID.dropna().unique())[::20][:300]
    guests = lines[lines.CustomerID.isna()].iloc[::100]
    return pd.concat([lines[lines.CustomerID.isin(customers)], guests]).sort_index()


@pytest.fixture(scope="module")
def result(part: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], Path]:
    out = tmp_path_factory.mktemp("online_retail")
    part.to_parquet(out / "part.parquet", index=False)
    shop = spec.load(SPEC, {"interactions": str(out / "part.parquet")})
    pipeline = beam.Pipeline(options=PipelineOptions(["--direct_running_mode=in_memory"]))
    return ingest.run(shop, out / "examples", out / "lookup", pipeline), out


def kept(lines: pd.DataFrame) -> pd.DataFrame:
    return lines[(lines.Quantity >= 1) & lines.InvoiceNo.notna() & lines.CustomerID.notna()]


def test_each_rule_leaves_out_what_pandas_counts(part: pd.DataFrame, result: tuple[dict[str, int], Path]) -> None:
    counts, _ = result
    bought = part[part.Quantity >= 1]
    invoiced = bought[bought.InvoiceNo.notna()]
    clean = kept(part)
    past = clean[clean.InvoiceDate < SPLIT]
    assert counts == {
        "interactions: rows read": len(part),
        "dropped: quantity below 1 (cancellations and write-offs)": len(part) - len(bought),
        "dropped: no invoice number": len(bought) - len(invoiced),
        "dropped: no customer (guest orders)": int(invoiced.CustomerID.isna().sum()),
        "dropped: beyond max_events_per_user": 0,
        "interactions: train": len(past),
        "interactions: test": len(clean) - len(past),
        "users: with purchases": clean.CustomerID.nunique(),
        "users: with a row of their own": past.CustomerID.nunique(),
        "users: train": past.CustomerID.nunique(),
        "users: test": clean[clean.InvoiceDate >= SPLIT].CustomerID.nunique(),
        "items: catalogue": past.StockCode.nunique(),
        "items: bought in train": past.StockCode.nunique(),
        "items: bought, without a row of their own": 0,
    }
    assert counts["dropped: quantity below 1 (cancellations and write-offs)"] > 100
    assert counts["dropped: no customer (guest orders)"] > 1_000
    assert counts["interactions: test"] > 1_000


def test_items_and_customers_are_described_by_what_was_known_before_the_test(
    part: pd.DataFrame, result: tuple[dict[str, int], Path]
) -> None:
    _, out = result
    past = kept(part)
    past = past[past.InvoiceDate < SPLIT]
    newest = past[past.InvoiceDate == past.groupby("StockCode").InvoiceDate.transform("max")]
    prices = newest.groupby("StockCode").UnitPrice.agg(set).to_dict()
    titles = newest.groupby("StockCode").Description.agg(set).to_dict()
    files = [str(file) for file in (out / "examples" / "Split-items").iterdir()]
    seen = set()
    for record in tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        code = feature["item_id"].bytes_list.value[0].decode()
        seen.add(code)
        assert feature["item_title"].bytes_list.value[0].decode() in titles[code]
        assert any(abs(feature["item_price"].float_list.value[0] - price) < 1e-4 for price in prices[code])
    assert seen == set(titles)
    (file,) = (out / "lookup").glob("items*")
    described = dict(zip(*pq.read_table(file).to_pydict().values(), strict=True))
    assert all(described[code] in titles[code] for code in titles)
    (file,) = (out / "lookup").glob("histories*")
    users = pq.read_table(file).column("user_id").to_pylist()
    assert all(user.isdigit() for user in users)  # 13085, not 13085.0


def test_the_whole_file_is_the_one_that_the_published_results_are_about(lines: pd.DataFrame) -> None:
    clean = kept(lines)
    past = clean[clean.InvoiceDate < SPLIT]
    buyers = past.groupby("StockCode").CustomerID.nunique()
    popular = past[past.StockCode.isin(buyers[buyers >= 10].index)]
    assert (popular.StockCode.nunique(), popular.CustomerID.nunique()) == (3_766, 5_659)
    assert (len(lines), len(clean), len(past)) == (1_044_847, 791_114, 709_265)
    shop = spec.load(SPEC)
    assert isinstance(shop.split, spec.TimeSplit)
    assert shop.split.start == int(SPLIT.timestamp())
    assert {candidates.min_users for candidates in shop.evaluation.candidates} == {0, 10}


@pytest.mark.slow
def test_the_same_pipeline_runs_with_nothing_but_its_own_spec(part: pd.DataFrame, tmp_path: Path) -> None:
    part.to_parquet(tmp_path / "part.parquet", index=False)
    command = [
        "run",
        "--spec",
        str(SPEC),
        "--interactions",
        str(tmp_path / "part.parquet"),
        "--out",
        str(tmp_path / "out"),
    ]
    # A few hundred customers need not beat popularity; what is not blessed is not pushed, and that is said.
    status = cli.main(command)
    assert status in (0, 3)
    pushed = sorted(path.name for path in (tmp_path / "out" / "serving" / "recommender").iterdir())
    assert len(pushed) == (1 if status == 0 else 0)
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "no customer (guest orders)" in report
    assert "bought most often" in report
    for model in ("scann", "portable"):
        assert list((tmp_path / "out" / "pipeline").glob(f"Compose/composed/*/{model}/saved_model.pb"))
