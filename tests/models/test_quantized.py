"""Quantised tables: what is stored, how near it is, that reading and storing again changes nothing, and its bytes."""

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from twotower.features.section import Precision
from twotower.models.quantized import QuantizedTable, VectorTable, stored

Small = Literal["int8", "int4"]
# Half a step of the row's largest number, and what a row's float16 scale and a column's power of two add to it.
HALF_STEPS = {"int8": 0.51 / 127, "int4": 0.51 / 7}
SMALL: tuple[Small, ...] = ("int8", "int4")


def vectors(rows: int = 300, dim: int = 9, seed: int = 0) -> npt.NDArray[np.float32]:
    """Rows of very different lengths, and a last column a hundred times wider."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(rows, dim)) * np.exp(random.normal(size=(rows, 1)))
    found[:, -1] *= 100
    return np.asarray(found, np.float32)


@pytest.mark.parametrize("precision", SMALL)
def test_the_error_is_half_a_step_of_each_row(precision: Small) -> None:
    values = vectors()
    table = stored(values, precision)
    assert isinstance(table, QuantizedTable)
    columns = np.sqrt(np.mean(values**2, axis=0))
    # Column scales are within a factor of the root of 2 of the spread: the steps at most twice as long for it.
    allowed = 2 * HALF_STEPS[precision] * np.abs(values / columns).max(axis=1, keepdims=True) * columns
    errors = np.abs(table.values() - values)
    assert (errors <= allowed).all()
    assert errors.max() > 0
    narrow, wide = errors[:, :-1].mean(), errors[:, -1].mean()
    assert wide > 20 * narrow  # the wide column does not spoil the others


@pytest.mark.parametrize(("precision", "largest"), [("int8", 127), ("int4", 7)])
def test_whole_numbers_are_stored_as_they_are(precision: Small, largest: int) -> None:
    # The columns hold the same numbers, and so have the same scale; a row's largest number is the largest there is.
    values = np.array([[largest, -3, 1], [0, 0, 0], [-3, 1, largest], [1, largest, -3]], np.float32)
    np.testing.assert_allclose(stored(values, precision).values(), values, rtol=1e-3)


@pytest.mark.parametrize("precision", SMALL)
@pytest.mark.parametrize("dim", [1, 2, 7, 8])
def test_what_was_read_is_stored_as_it_was(dim: int, precision: Small) -> None:
    once = stored(vectors(200, dim, seed=dim), precision)
    np.testing.assert_allclose(stored(once.values(), precision).values(), once.values(), rtol=1e-6)


@pytest.mark.parametrize("precision", ["float32", *SMALL])
def test_products_are_those_of_the_stored_vectors(
    precision: Literal["float32", "int8", "int4"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twotower.models.quantized.BLOCK_FLOATS", 9 * 64)  # 300 rows in blocks of 64
    table = stored(vectors(), precision)
    queries = np.random.default_rng(1).normal(size=(4, 9)).astype(np.float32)
    found = tf.function(table.products)(tf.constant(queries))
    np.testing.assert_allclose(found, queries @ table.values().T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", *SMALL])
def test_sums_are_those_of_the_stored_vectors(precision: Literal["float32", "int8", "int4"]) -> None:
    table = stored(vectors(), precision)
    found = table.sums(tf.ragged.constant([[3, 299], [], [0, 1, 3]], dtype=tf.int32))
    kept = table.values()
    expected = [kept[3] + kept[299], np.zeros(9), kept[0] + kept[1] + kept[3]]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("precision", SMALL)
def test_rows_of_any_shape_and_without_length(precision: Small) -> None:
    values = np.array([[0, 0, 0], [1, 2, 0], [0, 0, 0]], np.float32)
    table = stored(values, precision)
    found = table(tf.constant([[0, 1], [1, 2]]))
    assert found.shape == (2, 2, 3)
    assert (found.numpy()[0, 0] == 0).all()
    np.testing.assert_allclose(found.numpy()[0, 1], [1, 2, 0], rtol=0.15)
    assert stored(np.zeros((2, 3), np.float32), precision).values().tolist() == [[0, 0, 0], [0, 0, 0]]


class Tables(tf.Module):  # type: ignore[misc]
    """One table, looked up."""

    def __init__(self, table: VectorTable) -> None:
        super().__init__()
        self.table = table
        self.look_up = tf.function(table, [tf.TensorSpec([None], tf.int32)])


@pytest.mark.parametrize(("precision", "smaller"), [("int8", 3.8), ("int4", 7.3)])
def test_few_bytes_on_disk(precision: Small, smaller: float, tmp_path: Path) -> None:
    values = vectors(5_000, 64)
    table = stored(values, precision)
    tf.saved_model.save(Tables(table), str(tmp_path))
    on_disk = sum(file.stat().st_size for file in (tmp_path / "variables").glob("variables.data*"))
    assert table.nbytes <= on_disk <= table.nbytes + 5_000
    assert values.nbytes / on_disk > smaller
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.look_up(tf.range(5_000)), table.values())
    reader = tf.train.load_checkpoint(str(tmp_path / "variables" / "variables"))
    saved = {reader.get_variable_to_dtype_map()[name] for name in reader.get_variable_to_shape_map()}
    assert {tf.int8 if precision == "int8" else tf.uint8, tf.float16, tf.float32} <= saved


@pytest.mark.parametrize("precision", ["float32", *SMALL])
@pytest.mark.parametrize(("start", "limit"), [(0, 300), (17, 18), (40, 40), (297, 300)])
def test_products_of_a_range_of_rows(precision: Precision, start: int, limit: int) -> None:
    table, queries = stored(vectors(), precision), vectors(2, seed=1)
    found = table.range_products(tf.constant([start]), tf.constant([limit]), queries)
    np.testing.assert_allclose(found, table.values()[start:limit] @ queries.T, rtol=1e-4, atol=1e-2)
