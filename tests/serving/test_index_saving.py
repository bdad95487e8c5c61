"""Indexes inside a SavedModel, read by both of TensorFlow's loaders."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from twotower.serving.index import build_index
from twotower.serving.index.build import Kind

DIM = 16
ROWS = 30_000


class Servable(tf.Module):  # type: ignore[misc]
    """A module with an index and two signatures that search it, as a recommender has."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(100, DIM))
        vectors = centres[rng.integers(100, size=ROWS)] + 0.4 * rng.normal(size=(ROWS, DIM))
        self.index = build_index(vectors.astype(np.float32), kind, seed=1)

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec([None, DIM], name="queries"), tf.TensorSpec([], tf.int32, name="k")]
    )
    def retrieve(self, queries: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, rows = self.index.search(queries, k)
        return {"scores": scores, "rows": rows}

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec([None], tf.int32, name="rows"), tf.TensorSpec([], tf.int32, name="k")]
    )
    def similar(self, rows: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        scores, rows = self.index.search(self.index.embeddings(rows), k)
        return {"scores": scores, "rows": rows}


REQUESTS = [
    (signature, {name: value, "k": np.int32(k)})
    for signature, name, values in (
        ("retrieve", "queries", np.random.default_rng(5).normal(size=(40, DIM)).astype(np.float32)),
        ("similar", "rows", np.arange(40, dtype=np.int32)),
    )
    for value in (values[:1], values, values[:0])
    for k in (10, 1_000, 3, ROWS + 5)
    if len(value) * k < 1_000_000
]


@pytest.fixture(scope="module", params=["exact", "scann", "portable"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Servable, Path]:
    servable, path = Servable(request.param), tmp_path_factory.mktemp(request.param)
    tf.saved_model.save(
        servable,
        str(path),
        signatures={"retrieve": servable.retrieve, "similar": servable.similar},
        options=tf.saved_model.SaveOptions(namespace_whitelist=["Scann"]),
    )
    return servable, path


def assert_same(servable: Servable, signature: str, inputs: dict[str, Any], found: dict[str, Any]) -> None:
    expected = getattr(servable, signature)(**inputs)
    np.testing.assert_array_equal(found["rows"], expected["rows"])
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-6)


def test_eager_loader_gives_equal_results(saved: tuple[Servable, Path]) -> None:
    servable, path = saved
    loaded = tf.saved_model.load(str(path))
    for signature, inputs in REQUESTS:
        found = loaded.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        assert_same(servable, signature, inputs, found)


def test_session_loader_gives_equal_results(saved: tuple[Servable, Path]) -> None:
    servable, path = saved
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).signature_def
        found = []
        for signature, inputs in REQUESTS:
            signature_def = signatures[signature]
            feed = {signature_def.inputs[name].name: value for name, value in inputs.items()}
            found.append(session.run({name: info.name for name, info in signature_def.outputs.items()}, feed))
    for (signature, inputs), outputs in zip(REQUESTS, found, strict=True):
        assert_same(servable, signature, inputs, outputs)


def test_vectors_are_stored_once(saved: tuple[Servable, Path]) -> None:
    stored = sum(file.stat().st_size for file in saved[1].rglob("*") if file.is_file())
    assert ROWS * DIM * 4 < stored < 1.6 * ROWS * DIM * 4


@pytest.mark.parametrize("saved", ["portable"], indirect=True)
def test_portable_index_is_served_and_built_without_scann(saved: tuple[Servable, Path], tmp_path: Path) -> None:
    servable, path = saved
    signature, inputs = REQUESTS[0]
    np.save(tmp_path / "queries.npy", inputs["queries"])
    program = """
import sys
import numpy as np, tensorflow as tf
model, folder = sys.argv[1:]
loaded = tf.saved_model.load(model)
found = loaded.signatures["retrieve"](queries=tf.constant(np.load(folder + "/queries.npy")), k=tf.constant(10))
assert not any(name.split(".")[0] in ("scann", "twotower") for name in sys.modules), "more than TensorFlow was imported"

from twotower.serving.index import build_index
build_index(np.eye(50, dtype=np.float32), "portable", seed=0, exact_below=0)
assert "scann" not in sys.modules, "building a portable index imported scann"
np.savez(folder + "/found.npz", **{name: value.numpy() for name, value in found.items()})
"""
    subprocess.run([sys.executable, "-c", program, str(path), str(tmp_path)], check=True, timeout=120)
    with np.load(tmp_path / "found.npz") as found:
        assert_same(servable, signature, inputs, dict(found))
