"""Id embeddings: which ids share a row, what training reaches, and what is stored of them."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from twotower.features.model_choices import IdTable, TwoTower
from twotower.models.id_embeddings import IdEmbedding, id_embedding
from twotower.models.quantized import HoldsTables, store_tables

# Ids 2 and 5 are rare: with min_count 5, the others have the ranks 0 to 7.
COUNTS = np.array([9, 5, 1, 7, 8, 0, 6, 9, 9, 9])
KNOWN = [0, 1, 3, 4, 6, 7, 8, 9]
TABLES: tuple[IdTable, ...] = ("full", "hashed", "quotient_remainder")


def ids(table: IdTable, dropout: float = 0.0, buckets: int = 3) -> IdEmbedding:
    tf.keras.utils.set_random_seed(1)
    return IdEmbedding(COUNTS, min_count=5, dim=4, dropout=dropout, table=table, buckets=buckets)


def vectors(layer: IdEmbedding) -> Any:
    return layer(tf.range(len(COUNTS) + 1)).numpy()


@pytest.mark.parametrize(
    ("table", "distinct", "rows"), [("full", 8, 9), ("hashed", 3, 4), ("quotient_remainder", 8, 8)]
)
def test_known_ids_have_the_vectors_that_a_table_holds(table: IdTable, distinct: int, rows: int) -> None:
    layer = ids(table)
    found = vectors(layer)
    assert len(np.unique(found[KNOWN], axis=0)) == distinct
    # Full: 8 and the unknown; hashed: 3 and the unknown; product: 3 remainders, 3 quotients, an unknown each.
    assert sum(variable.shape[0] for variable in layer.trainable_variables) == rows


@pytest.mark.parametrize("table", TABLES)
def test_rare_and_unknown_ids_share_a_vector_of_their_own(table: IdTable) -> None:
    found = vectors(ids(table))
    for shared in (5, 10):
        np.testing.assert_array_equal(found[2], found[shared])
    assert not (found[KNOWN] == found[2]).all(axis=1).any()


def test_hashed_ids_share_by_remainder_and_products_are_of_both_parts() -> None:
    found = vectors(ids("hashed"))
    np.testing.assert_array_equal(found[KNOWN[1]], found[KNOWN[4]])  # ranks 1 and 4, in 3 buckets
    layer = ids("quotient_remainder")
    found = vectors(layer)
    remainder, quotient = (variable.numpy() for variable in layer.trainable_variables)
    np.testing.assert_allclose(found[KNOWN[7]], remainder[7 % 3] * quotient[7 // 3])


@pytest.mark.parametrize("table", TABLES)
def test_dropout_trains_the_unknown_vector_and_nothing_is_dropped_when_serving(table: IdTable) -> None:
    layer = ids(table, dropout=0.5)
    before = vectors(layer)[10]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.zeros([200], tf.int64), training=True))
    tf.keras.optimizers.SGD(0.01).minimize(loss, layer.trainable_variables, tape)
    assert np.abs(vectors(layer)[10] - before).min() > 1e-4
    assert len(np.unique(layer(tf.zeros([200], tf.int64)).numpy(), axis=0)) == 1


@pytest.mark.parametrize("table", TABLES)
def test_stored_tables_are_near_and_small(table: IdTable) -> None:
    layer = ids(table)
    before, parameters = vectors(layer), layer.count_params()
    tower = tf.keras.Sequential([layer])
    assert isinstance(layer, HoldsTables) or table != "full"
    store_tables((tower,), "int8")
    assert layer.trainable_variables == []
    found = vectors(layer)
    assert 0 < np.abs(found - before).max() < 0.02
    numbers = [variable for variable in layer.variables if variable.dtype == tf.int8]
    assert sum(int(tf.size(variable)) for variable in numbers) == parameters - len(COUNTS) - 1
    store_tables((tower,), "int8")  # the same again
    np.testing.assert_allclose(vectors(layer), found, rtol=1e-6)


def test_the_settings_choose_the_table() -> None:
    for table in TABLES:
        layer = id_embedding(TwoTower(embedding_dim=6, min_id_count=5, id_table=table, id_buckets=2), COUNTS, "ids")
        assert vectors(layer).shape == (11, 5)
        shapes = [variable.shape[0] for variable in layer.trainable_variables]
        assert shapes == {"full": [9], "hashed": [3], "quotient_remainder": [3, 5]}[table]
