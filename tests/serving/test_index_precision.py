"""Indexes of few-bit vectors: what they score is what they store, and they store few bytes."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from twotower.features.section import Precision
from twotower.serving.index import Index, build_index
from twotower.serving.index.base import FloatMatrix
from twotower.serving.index.build import Kind
from twotower.serving.index.export import IndexExport
from twotower.serving.index.probing import recall

ROWS, DIM = 4_000, 48


def drawn(count: int, draw: int) -> FloatMatrix:
    """Vectors around 40 centres, with a last column like a prior's: wider, and the same in no two rows."""
    centres = np.random.default_rng(0).normal(size=(40, DIM))
    random = np.random.default_rng(draw)
    found = centres[random.integers(40, size=count)] + 0.5 * random.normal(size=(count, DIM))
    found[:, -1] = 3 * random.normal(size=count)
    return np.asarray(found, np.float32)


VECTORS, QUERIES = drawn(ROWS, 1), drawn(50, 2)
QUERIES[:, -1] = 1
# Vectors of ScaNN's eight bits have a scale a column, and the numbers of its own search stay as they are.
CASES: list[tuple[Kind, Precision, float]] = [
    ("exact", "int8", 3.7),
    ("exact", "int4", 7.0),
    ("portable", "int8", 3.0),
    ("portable", "int4", 4.5),
    ("scann", "int8", 2.5),
    ("scann", "int4", 2.5),
]


def built(kind: Kind, precision: Precision) -> Index:
    return build_index(VECTORS, kind, seed=1, exact_below=0, queries=drawn(200, 3), precision=precision)


def saved_bytes(index: Index, folder: Path) -> int:
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(IndexExport(index), str(folder), options=options)
    return sum(file.stat().st_size for file in folder.glob("variables/variables.data*"))


@pytest.mark.parametrize(("kind", "precision", "smaller"), CASES)
def test_few_bytes_and_the_right_rows(kind: Kind, precision: Precision, smaller: float, tmp_path: Path) -> None:
    index = built(kind, precision)
    assert saved_bytes(built(kind, "float32"), tmp_path / "plain") > smaller * saved_bytes(index, tmp_path / "small")
    loaded = tf.saved_model.load(str(tmp_path / "small"))
    scores, rows = (found.numpy() for found in loaded.search(tf.constant(QUERIES), tf.constant(20)))
    stored = loaded.embeddings(tf.range(ROWS)).numpy()
    # A list's scores are the products with what is stored, in order.
    np.testing.assert_allclose(scores, np.einsum("bd,bkd->bk", QUERIES, stored[rows]), rtol=1e-3, atol=1e-3)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert recall(rows, np.argsort(-(QUERIES @ stored.T), axis=1)[:, :20]) > 0.9
    # And what is stored is near: of the best by the plain vectors most are found.
    assert recall(rows, np.argsort(-(QUERIES @ VECTORS.T), axis=1)[:, :20]) > (0.9 if smaller < 4 else 0.7)


def test_float32_is_what_was_indexed() -> None:
    np.testing.assert_array_equal(built("exact", "float32").embeddings(tf.range(ROWS)), VECTORS)
