"""What every retrieval model must do, on a block matrix whose right answer is known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from family_models import BY_ID, IMPERSONAL, MODELS

from twotower.features.encoding import Encoding
from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.candidates import embed_catalogue
from twotower.models.contract import Towers, TrainingData
from twotower.models.exports import TowersExport
from twotower.models.retrievers import FITS, fit
from twotower.models.tables import Catalogue, Users
from twotower.serving.index import build_index
from twotower.serving.index.build import Kind

Float32 = npt.NDArray[np.float32]
DAY = 86_400
BLOCK_USERS, BLOCK_ITEMS, BLOCKS = 30, 6, 2
N_BOUGHT = BLOCK_ITEMS * BLOCKS
# One item and one user more, whom nobody and who never bought.
N_ITEMS, N_USERS = N_BOUGHT + 1, BLOCK_USERS * BLOCKS + 1
NEVER_BOUGHT, NEVER_BUYS, UNKNOWN = N_BOUGHT, N_USERS - 1, N_USERS
PERSONAL = [name for name in MODELS if name not in IMPERSONAL]


def catalogue() -> Catalogue:
    ids = np.array([b"%d" % n for n in range(N_ITEMS)], dtype=object)
    brands = np.arange(N_ITEMS) % 3  # the same in both blocks
    return Catalogue(ids, {"item_brand": brands}, [Encoding("item_brand", "index", 4)])


def shoppers() -> Users:
    """Each user buys five of the six items of their block, one of them twice."""
    random = np.random.default_rng(1)
    events = []
    for user in range(BLOCK_USERS * BLOCKS):
        chosen = random.permutation(BLOCK_ITEMS)[:5] + BLOCK_ITEMS * (user // BLOCK_USERS)
        events += [(user, item, random.integers(50, 100)) for item in [*chosen, chosen[0]]]
    users, items, days = np.array(events).T
    history = Timelines.from_events(
        users.astype(np.int64),
        items.astype(np.int32),
        (days * DAY).astype(np.int64),
        np.ones(len(users), np.float32),
        N_USERS,
    )
    rows = np.arange(N_USERS)
    return Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0))


@dataclass(frozen=True)
class Fitted:
    towers: Towers
    export: TowersExport
    items: Float32

    def ask(self, users: npt.NDArray[np.int64] | list[int], histories: list[list[int]]) -> Float32:
        """Query vectors by user rows and histories of item rows."""
        return np.asarray(self.export.query(queries(users, histories)))

    def scores(self, users: npt.NDArray[np.int64] | list[int], histories: list[list[int]]) -> Float32:
        return np.asarray(self.ask(users, histories) @ self.items.T)


def queries(users: npt.NDArray[np.int64] | list[int], histories: list[list[int]]) -> dict[str, tf.Tensor]:
    width = max(map(len, histories), default=0)
    padded = [[*items, *[N_ITEMS] * (width - len(items))] for items in histories]
    rows = tf.reshape(tf.constant(padded, tf.int32), [len(users), width])
    return {
        "user_id": tf.constant(users, tf.int64),
        "history_item_id": rows,
        "history_age": tf.cast(rows < N_ITEMS, tf.float32),
    }


def fit_anew(name: str, folder: Path) -> Fitted:
    spec = Spec.model_validate(
        {
            "name": "shop",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": "1970-04-11"},
            "retrieval": {"model": name, **MODELS[name]},
        }
    )
    items = catalogue()
    towers = fit(TrainingData(spec, items, shoppers(), N_USERS, folder))
    export = TowersExport(towers, [], items.encodings, spec.retrieval.history_length)
    return Fitted(towers, export, embed_catalogue(export, items))


@pytest.fixture(scope="module")
def fit_once(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return cache(lambda name: fit_anew(name, tmp_path_factory.mktemp(name)))


@pytest.fixture
def fitted(fit_once: Any, name: str) -> Fitted:
    found: Fitted = fit_once(name)
    return found


def histories_of(users: Users) -> list[list[int]]:
    offsets = users.history.offsets
    return [users.history.items[a:b].tolist() for a, b in pairwise(offsets)]


def own_and_other(scores: Float32, blocks: npt.NDArray[np.int64]) -> tuple[Float32, Float32]:
    """Scores of the items of each row's own block and of the other, [b, 6] each."""
    halves = scores[:, :N_BOUGHT].reshape(-1, BLOCKS, BLOCK_ITEMS)
    rows = np.arange(len(scores))
    return halves[rows, blocks], halves[rows, 1 - blocks]


BLOCK_OF = np.arange(BLOCK_USERS * BLOCKS) // BLOCK_USERS


def test_every_model_is_tested() -> None:
    assert set(MODELS) == set(FITS)


@pytest.mark.parametrize("name", PERSONAL)
def test_a_user_gets_the_block_s_items_first(fitted: Fitted) -> None:
    scores = fitted.scores(np.arange(len(BLOCK_OF)), histories_of(shoppers())[: len(BLOCK_OF)])
    own, other = own_and_other(scores, BLOCK_OF)
    # The item that the user never bought too.
    assert (own.min(axis=1) > other.max(axis=1)).mean() > 0.95


@pytest.mark.parametrize("name", [name for name in PERSONAL if name not in BY_ID])
@pytest.mark.parametrize("bought", [[1, 4, 0], [4, 0, 3, 1, 2, 4, 0]], ids=["few", "many, some twice"])
def test_a_new_user_is_folded_in_by_history(fitted: Fitted, bought: list[int]) -> None:
    scores = fitted.scores([UNKNOWN, UNKNOWN], [bought, [item + BLOCK_ITEMS for item in bought]])
    own, other = own_and_other(scores, np.array([0, 1]))
    assert (own.min(axis=1) > other.max(axis=1)).all()


@pytest.mark.parametrize("name", ["popularity"])
def test_popularity_is_the_order_of_the_buyers(fitted: Fitted) -> None:
    users = shoppers()
    pairs = {(u, i) for u, i in zip(users.history.users.tolist(), users.history.items.tolist(), strict=True)}
    buyers = np.bincount([item for _, item in pairs], minlength=N_ITEMS)
    scores = fitted.scores([0, UNKNOWN], [[1, 2], []])
    np.testing.assert_allclose(scores, [np.log1p(buyers)] * 2, rtol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_two_fits_give_the_same_vectors(fitted: Fitted, name: str, tmp_path: Path) -> None:
    again = fit_anew(name, tmp_path)
    asked = [0, 40, NEVER_BUYS, UNKNOWN], [[1, 2], [7], [], [3]]
    np.testing.assert_array_equal(fitted.items, again.items)
    np.testing.assert_array_equal(fitted.ask(*asked), again.ask(*asked))


@pytest.mark.parametrize("name", MODELS)
def test_users_and_items_without_interactions_survive(fitted: Fitted) -> None:
    assert np.isfinite(fitted.items).all()
    users = [NEVER_BUYS, UNKNOWN, NEVER_BUYS, 0, UNKNOWN]
    vectors = fitted.ask(users, [[], [], [NEVER_BOUGHT], [], [N_ITEMS]])
    assert np.isfinite(vectors).all()
    # Knowing nothing of a user, an item that was bought comes first. (To know the other item is to know something.)
    scores = np.delete(vectors @ fitted.items.T, 2, axis=0)
    assert (scores[:, NEVER_BOUGHT] < scores[:, :N_BOUGHT].max(axis=1)).all()


@pytest.mark.parametrize("name", MODELS)
def test_what_nobody_bought_is_below_what_the_block_bought(fitted: Fitted) -> None:
    scores = fitted.scores(np.arange(len(BLOCK_OF)), histories_of(shoppers())[: len(BLOCK_OF)])
    own, _ = own_and_other(scores, BLOCK_OF)
    assert (scores[:, NEVER_BOUGHT] < own.min(axis=1)).mean() > 0.95


@pytest.mark.parametrize("name", MODELS)
def test_an_item_out_of_the_vocabulary_has_a_vector(fitted: Fitted) -> None:
    found = fitted.export.candidate(
        {"item_id": tf.constant([N_ITEMS], tf.int64), "item_brand": tf.constant([3], tf.int64)}
    )
    assert found.shape == (1, fitted.items.shape[1])
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", MODELS)
def test_queries_do_not_depend_on_their_batch_or_padding(fitted: Fitted) -> None:
    histories = [[1, 2, 5], [], [7, 8, 9, 10, 7, N_ITEMS, N_ITEMS], [3]]
    together = fitted.ask([0, 1, UNKNOWN, 2], histories)
    for row, (user, history) in enumerate(zip([0, 1, UNKNOWN, 2], histories, strict=True)):
        np.testing.assert_allclose(fitted.ask([user], [history])[0], together[row], atol=1e-5)
    assert fitted.ask([], []).shape == (0, fitted.items.shape[1])


@pytest.mark.parametrize("name", MODELS)
def test_saved_towers_answer_the_same(fitted: Fitted, tmp_path: Path) -> None:
    tf.saved_model.save(fitted.export, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    asked = queries([0, 40, NEVER_BUYS, UNKNOWN], [[1, 2], [7], [], [3]])
    np.testing.assert_allclose(loaded.query(asked), fitted.export.query(asked), atol=1e-6)
    np.testing.assert_allclose(embed_catalogue(loaded, catalogue()), fitted.items, atol=1e-6)
    assert int(loaded.history_length) == int(fitted.export.history_length)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["portable", "exact"])
def test_the_index_ranks_as_the_vectors_do(fitted: Fitted, kind: Kind) -> None:
    vectors = fitted.ask([0, 40, NEVER_BUYS, UNKNOWN], [[1, 2], [7], [], [3]])
    index = build_index(fitted.items, kind, seed=1, queries=vectors, exact_below=0)
    scores, rows = (found.numpy() for found in index.search(tf.constant(vectors), tf.constant(N_ITEMS)))
    exact = vectors @ fitted.items.T
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1), atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(exact, rows, axis=1), scores, atol=1e-5)
    assert (np.sort(rows, axis=1) == np.arange(N_ITEMS)).all()
