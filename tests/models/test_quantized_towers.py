"""Towers stored in few bits: nothing of their tables stays float on disk, and they rank as before."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from twotower.features.model_choices import GraphTower, IdTable
from twotower.features.section import Precision
from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.contract import Towers, TrainingData
from twotower.models.exports import TowersExport
from twotower.models.family.graph_tower import GraphFilter
from twotower.models.family.interactions import interaction_matrix
from twotower.models.family.table_towers import HistorySum, ItemTable
from twotower.models.queries import Queries
from twotower.models.retrieval import build_towers
from twotower.models.splits import given_pairs
from twotower.models.tables import Catalogue, Users
from twotower.models.training_events import TrainingEvents

Float32 = npt.NDArray[np.float32]
N_USERS, N_ITEMS, GROUPS = 400, 300, 10
CATALOGUE = Catalogue(np.array([b"%d" % n for n in range(N_ITEMS)], dtype=object), {}, [])


def purchases() -> Any:
    """Users buy ten items, mostly of their group; two of the ten are the test."""
    random = np.random.default_rng(1)
    chosen = []
    for user in range(N_USERS):
        likes = np.where(np.arange(N_ITEMS) % GROUPS == user % GROUPS, 1.0, 0.01) / (1 + np.arange(N_ITEMS) // GROUPS)
        chosen.append(random.choice(N_ITEMS, 10, replace=False, p=likes / likes.sum()))
    items = np.array(chosen)
    users = np.arange(N_USERS).repeat(10).reshape(-1, 10)
    train, test = (users[:, :8].ravel(), items[:, :8].ravel()), (users[:, 8:].ravel(), items[:, 8:].ravel())
    return given_pairs(*train, *test, N_USERS, N_ITEMS)


PROTOCOL = purchases()


def data_of(retrieval: dict[str, Any], folder: Path) -> TrainingData:
    spec = Spec.model_validate(
        {
            "name": "shop",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": "1970-01-01T00:00:01"},
            "retrieval": retrieval,
        }
    )
    rows = np.arange(N_USERS)
    users = Users(rows.astype(object), rows, {}, [], PROTOCOL.history, {}, PROTOCOL.labels)
    return TrainingData(spec, CATALOGUE, users, N_USERS, folder)


def table_towers() -> Towers:
    """Towers that are tables of 64 factors, and a bias."""
    choice = GraphTower(model="graph_tower", factors=64)
    found = GraphFilter.of(interaction_matrix(PROTOCOL.history, N_ITEMS), choice, 1)
    return Towers(HistorySum(found.left, power=0.5), ItemTable(found.right, np.zeros(N_ITEMS, np.float32)))


def saved(towers: Towers, data: TrainingData, precision: Precision, folder: Path) -> tuple[TowerRetriever, int]:
    """The export, saved and loaded, and the bytes of its variables."""
    export = TowersExport(towers, [], [], data.spec.retrieval.history_length, precision)
    tf.saved_model.save(export, str(folder))
    size = sum(file.stat().st_size for file in folder.glob("variables/variables.data*"))
    return TowerRetriever(str(folder), CATALOGUE, Queries(data.spec, data.train, N_ITEMS)), size


def answers(retriever: TowerRetriever) -> tuple[Float32, float]:
    """Scores [users, items], and NDCG@20 of the test."""
    queries = retriever.embed_latest(np.arange(N_USERS), 1)
    return queries @ retriever.items.T, PROTOCOL.evaluate_vectors(queries, retriever.items, "new").ndcg


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Towers of tables, as saved in float32: scores, NDCG and bytes."""
    folder = tmp_path_factory.mktemp("plain")
    retriever, size = saved(table_towers(), data_of({"model": "graph_tower"}, folder), "float32", folder)
    return *answers(retriever), size


# A row of 65 numbers and a scale of two bytes; a few columns' scales.
@pytest.mark.parametrize(
    ("precision", "smaller", "most", "loss"), [("int8", 3.6, 0.02, 0.01), ("int4", 6.5, 0.3, 0.03)]
)
def test_tables_of_few_bits_rank_as_before(
    plain: Any, precision: Precision, smaller: float, most: float, loss: float, tmp_path: Path
) -> None:
    before, ndcg, size = plain
    retriever, few = saved(table_towers(), data_of({"model": "graph_tower"}, tmp_path), precision, tmp_path)
    scores, found = answers(retriever)
    assert size / few > smaller
    assert ndcg > 0.2
    assert found == pytest.approx(ndcg, rel=loss)
    assert 0 < off(before, scores) < most


@pytest.mark.parametrize("table", ["full", "hashed", "quotient_remainder"])
def test_id_tables_are_saved_in_few_bits(table: IdTable, tmp_path: Path) -> None:
    choice = {
        "embedding_dim": 17,
        "tower_units": [],
        "min_id_count": 1,
        "id_table": table,
        "id_buckets": 50,
        "graph_factors": 0,
    }
    data = data_of({**choice, "history_length": 8}, tmp_path)
    events = TrainingEvents.choose(data.spec, data.train, N_ITEMS)
    tf.keras.utils.set_random_seed(1)
    towers = Towers(*build_towers(data.spec, CATALOGUE, data.train, N_USERS, events))
    plain, _ = saved(towers, data, "float32", tmp_path / "float32")
    small, _ = saved(towers, data, "int8", tmp_path / "int8")
    everyone = np.arange(N_USERS)
    for before, after in (
        (plain.items, small.items),
        (plain.embed_latest(everyone, 1), small.embed_latest(everyone, 1)),
    ):
        # The last dimension is the prior, which is as near as an index stores it.
        np.testing.assert_allclose(before[:, -1], after[:, -1], atol=0.03)
        assert 0 < off(before[:, :-1], after[:, :-1]) < 0.02
    numbers = {precision: stored_numbers(tmp_path / precision) for precision in ("float32", "int8")}
    # Users, and items in the history and as candidates: a row for each known one, and for the unknown.
    users, items = N_USERS, len(np.unique(PROTOCOL.history.items))
    rows = {
        "full": users + 2 * items + 3,
        "hashed": 3 * 51,
        "quotient_remainder": 3 * 51 + sum(-(-known // 50) + 1 for known in (users, items, items)),
    }[table]
    assert numbers["int8"][tf.int8] == 16 * rows
    tables = 6 if table == "quotient_remainder" else 3
    assert numbers["float32"][tf.float32] - numbers["int8"][tf.float32] == 16 * (rows - tables)


def off(before: Float32, after: Float32) -> float:
    """The root mean square of the change, as a share of the spread."""
    return float(np.sqrt(np.mean((after - before) ** 2)) / before.std())


def stored_numbers(folder: Path) -> dict[tf.DType, int]:
    """How many numbers of each type are on disk."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    types = reader.get_variable_to_dtype_map()
    found: dict[tf.DType, int] = {}
    for name, shape in reader.get_variable_to_shape_map().items():
        found[types[name]] = found.get(types[name], 0) + int(np.prod(shape))
    return found
