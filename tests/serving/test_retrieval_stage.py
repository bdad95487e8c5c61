"""What an approximate index finds for a row of a request depends on nothing but the row."""

from pathlib import Path

import pytest
import tensorflow as tf
from test_index import clustered
from tiny_shop import SPEC

from twotower.serving.index import build_index
from twotower.serving.index.build import Kind
from twotower.serving.item_ids import ItemIds
from twotower.serving.retrieval_stage import RetrievalStage

N_ITEMS, DIM, WANTED = 5_000, 16, 100
Found = list[list[int]]
QUERIES = clustered(200, DIM, draw=2)


class Searched:
    """A stage without towers, over an index that probes few of its leaves, and more for one item more than WANTED."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        (folder / "ids").write_text("".join(f"i{row}\n" for row in range(N_ITEMS)))
        index = build_index(clustered(N_ITEMS, DIM, draw=1), kind, seed=7, recall=0.8, exact_below=0)
        self._stage = RetrievalStage(SPEC, None, index, ItemIds(folder / "ids"), N_ITEMS, None, ())
        self._best = tf.function(self._stage.best, reduce_retracing=True)

    def rows(self, excluded: list[list[str]], queries: list[int]) -> Found:
        width = max(map(len, excluded), default=0)
        names = [[*each, *[""] * (width - len(each))] for each in excluded]
        inputs = {"exclude_item_ids": tf.reshape(tf.constant(names, tf.string), [len(queries), width])}
        found: Found = self._best(inputs, QUERIES[queries], tf.constant(WANTED))[1].numpy().tolist()
        return found


@pytest.fixture(scope="module", params=["scann", "portable"])
def searched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    return Searched(request.param, tmp_path_factory.mktemp("ids"))


def test_padding_changes_nothing(searched: Searched) -> None:
    # A batch of lists was once found with one item more than the server's, and a few with more leaves of the index.
    for query in range(len(QUERIES)):
        assert searched.rows([["", "i-gone"]], [query]) == searched.rows([[]], [query])


def test_what_a_neighbour_excludes_changes_nothing(searched: Searched) -> None:
    many = [f"i{row}" for row in range(0, N_ITEMS, 10)]
    for query in range(40):
        alone, *_ = searched.rows([[]], [query])
        assert searched.rows([[], many], [query, query])[0] == alone


def test_excluded_items_make_room_for_others(searched: Searched) -> None:
    for query in range(40):
        before, *_ = searched.rows([[]], [query])
        gone = before[:WANTED:2]
        after, *_ = searched.rows([[f"i{row}" for row in gone] * 2], [query])
        assert len(set(after)) == WANTED
        assert max(after) < N_ITEMS
        assert not set(after) & set(gone)
        assert set(before) - set(gone) <= set(after)


def test_nobody_is_answered(searched: Searched) -> None:
    assert searched.rows([], []) == []
