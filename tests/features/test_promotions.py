"""Promotions from a table's rows: what they say, what is refused, and that the order of arrival does not matter."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from pydantic import ValidationError

from twotower.features import preprocessing
from twotower.features.columns import Chunk
from twotower.features.errors import InputError
from twotower.features.promotions import promotion_columns, promotion_record, promotions_by_item
from twotower.features.spec import Promotions, Spec

TABLE = {"path": "p.csv", "item": "sku", "from": "starts", "until": "ends", "strengths": {"size": "advert"}}
ROWS = {
    "sku": ["b", "a", "b"],
    "starts": ["2017-01-08", "2017-01-01", "2099-01-01"],  # what is planned may lie in the future
    "ends": ["2017-01-15", "2017-01-02", "2099-02-01"],
    "advert": [2.0, 0.5, 0.0],
}


def promotions(**changes: Any) -> Promotions:
    return Promotions.model_validate(TABLE | changes)


def chunk(**changes: list[Any]) -> Chunk:
    table = pa.table(ROWS | changes)
    return Chunk(Path("p.csv"), np.arange(1, len(table) + 1), table)


def as_lists(parts: dict[bytes, dict[str, Any]]) -> dict[bytes, dict[str, list[Any]]]:
    return {item: {key: values.tolist() for key, values in part.items()} for item, part in parts.items()}


def test_a_row_is_a_promotion_of_its_item() -> None:
    day = 86_400
    new_year = 1_483_228_800
    assert as_lists(promotions_by_item(chunk(), promotions())) == {
        b"a": {"promotion_start": [new_year], "promotion_end": [new_year + day], "promotion_size": [0.5]},
        b"b": {
            "promotion_start": [new_year + 7 * day, 4_070_908_800],
            "promotion_end": [new_year + 14 * day, 4_070_908_800 + 31 * day],
            "promotion_size": [2.0, 0.0],
        },
    }
    assert promotion_columns(promotions()) == ["sku", "starts", "ends", "advert"]


def test_without_strengths_each_is_as_strong() -> None:
    found = promotions_by_item(chunk(), promotions(strengths={}))
    assert found[b"b"]["promotion_on"].tolist() == [1.0, 1.0]


def test_the_order_of_the_parts_does_not_matter() -> None:
    parts = [promotions_by_item(chunk(starts=[day, "2017-01-01", day]), promotions())[b"b"] for day in
             ("2017-01-03", "2017-01-01", "2017-01-02")]  # fmt: skip
    assert promotion_record(parts) == promotion_record(parts[::-1])
    starts = promotion_record(parts)["promotion_start"]
    assert list(starts) == sorted(starts)
    assert promotion_record([]) == {}


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("sku", ["b", "", "b"], "row 2, column 'sku': found '', expected an id that is not empty"),
        ("starts", ["2017-01-08", "soon", "2017-01-01"], "row 2, column 'starts': found 'soon', expected a time like"),
        (
            "ends",
            ["2017-01-08"] * 3,
            "row 1, column 'ends': found '2017-01-08', expected a time after that of 'starts'",
        ),
        ("advert", [1.0, -2.0, 1.0], "row 2, column 'advert': found -2.0, expected a number of at least 0"),
        ("advert", [1.0, None, 1.0], "row 2, column 'advert': found None, expected a number of at least 0"),
    ],
)
def test_what_does_not_fit_is_named(column: str, values: list[Any], expected: str) -> None:
    with pytest.raises(InputError) as error:
        promotions_by_item(chunk(**{column: values}), promotions())
    assert expected in str(error.value)


@pytest.mark.parametrize("name", ["start", "end"])
def test_a_strength_is_not_called_like_a_time(name: str) -> None:
    with pytest.raises(ValidationError, match=f"the name '{name}' is taken by a promotion's time"):
        promotions(strengths={name: "advert"})


def test_the_raw_features_are_those_of_the_examples() -> None:
    shop = {
        "name": "shop",
        "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
        "split": {"test_from": "2017-12-01"},
    }
    types = preprocessing.raw_feature_types(Spec.model_validate({**shop, "promotions": TABLE}))
    found = promotions_by_item(chunk(), promotions())[b"a"]
    kinds = {tf.int64: np.int64, tf.float32: np.float32}
    assert {key: kinds[types[key]] for key in found} == {key: values.dtype.type for key, values in found.items()}
    assert not [key for key in preprocessing.raw_feature_types(Spec.model_validate(shop)) if key.startswith("promo")]
