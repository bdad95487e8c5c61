"""Transform's files as the dense tables of the models, on the tiny shop."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_shop import DAY, ITEMS, SPEC, SPLIT, Shop

from twotower.features.spec import Evaluation
from twotower.models.tables import Catalogue, Users
from twotower.models.transformed import Transformed


@pytest.fixture(scope="module")
def data(shop: Shop) -> Transformed:
    return shop.data()


@pytest.fixture(scope="module")
def catalogue(data: Transformed) -> Catalogue:
    return data.catalogue()


@pytest.fixture(scope="module")
def train(data: Transformed) -> Users:
    return data.users("train")


def row(catalogue: Catalogue, name: str) -> int:
    return int(np.flatnonzero(catalogue.ids == name.encode())[0])


def test_the_catalogue_has_every_item_in_vocabulary_order(data: Transformed, catalogue: Catalogue) -> None:
    assert catalogue.ids.tolist() == data.item_ids().tolist()
    assert sorted(catalogue.ids) == sorted(item["item_id"][0] for item in ITEMS)
    # The split's file is in another order: the image of item n is [n / 10, -0.2, 1].
    for n in range(9):
        np.testing.assert_allclose(catalogue.features["item_image"][row(catalogue, f"i{n}")], [n / 10, -0.2, 1])


def test_what_an_item_lacks_gets_its_stand_in(catalogue: Catalogue) -> None:
    bare = {name: table[row(catalogue, "bare")].tolist() for name, table in catalogue.features.items()}
    assert bare == {
        "item_brand": 2,  # two brands are known
        "item_price": 0.0,  # the mean
        "item_price_bucket": 2,
        "item_title": [-1, -1, -1],
        "item_image": [0.0, 0.0, 0.0],
        "item_tags": [-1, -1],
        "item_listed": 12,
    }


def test_promotions_name_their_items(catalogue: Catalogue) -> None:
    assert catalogue.promotions is not None
    assert catalogue.promotions.items.tolist() == [row(catalogue, "bare")] * 2
    assert catalogue.promotions.starts.tolist() == [SPLIT - 9 * DAY, SPLIT - DAY]
    assert catalogue.promotions.ends.tolist() == [SPLIT - 2 * DAY, SPLIT + DAY]
    assert {name: values.tolist() for name, values in catalogue.promotions.strengths.items()} == {"advert": [0.25, 0.5]}


def test_users_and_their_histories(data: Transformed, catalogue: Catalogue, train: Users) -> None:
    assert train.ids.tolist() == [b"u1", b"u2", b"u3", b"u4", b"u5"]
    assert sorted(train.rows) == [0, 1, 2, 3, 4]
    assert data.n_users == 5
    assert train.history.lengths.tolist() == [7, 1, 0, 3, 2]
    u4 = slice(*train.history.offsets[3:5])
    assert train.history.items[u4].tolist() == [row(catalogue, "i7"), len(catalogue), row(catalogue, "i8")]
    assert train.history.times[u4].tolist() == [SPLIT - 9 * DAY, SPLIT - 5 * DAY, SPLIT - DAY]
    assert len(train.labels.items) == 0
    assert train.labels.n_users == 5


def test_user_features_and_their_stand_ins(train: Users) -> None:
    known = {e.name: e.size for e in train.encodings}
    assert train.features["user_age"].tolist() == [-1.0, 1.0, 0.0, 0.0, 0.0]  # 20 and 40, standardised
    assert train.features["user_age_bucket"].tolist() == [0, 1, 2, 2, 2]
    assert train.features["user_town"].tolist()[2:] == [known["user_town"] - 1] * 3
    assert train.features["user_face"].tolist() == [[0.5, -1], [0, 0], [0, 0], [0, 0], [2, 1]]
    tastes = train.features["user_tastes"]
    assert tastes[2].tolist() == [tastes[0, 1], -1]
    assert tastes[1].tolist() == [-1, -1]
    assert train.features["user_joined"].tolist() == [3, 7, 7, 7, 7]  # 2016-10-27 was a Thursday


def test_context_lies_along_the_history(train: Users) -> None:
    stores = train.context["context_store"]
    assert len(stores) == len(train.history.items)
    s1, s2, unknown = stores[0], stores[3], 2
    assert sorted([s1, s2]) == [0, 1]
    assert stores.tolist() == [s1, unknown, s1, s2, s2, s2, s1, s1, s1, s2, s2, unknown, s1]
    assert "context_hour" not in train.context  # computed from each event's time


def test_labels_of_the_eval_split(data: Transformed, catalogue: Catalogue) -> None:
    asked = data.users("eval")
    assert asked.ids.tolist() == [b"u1", b"u3", b"new"]
    assert asked.rows[2] == data.n_users  # unknown
    assert asked.labels.lengths.tolist() == [3, 0, 0]
    assert asked.labels.items.tolist() == [row(catalogue, name) for name in ("i2", "bare", "i2")]
    assert asked.labels.quantities.tolist() == [1, 2, 4]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_of_many_test_users_some_are_asked(shop: Shop, data: Transformed, seed: int) -> None:
    spec = SPEC.model_copy(update={"seed": seed, "evaluation": Evaluation(max_users=2)})
    every, asked = data.users("eval"), Transformed(spec, str(shop.graph), str(shop.examples)).asked()
    places = [every.ids.tolist().index(name) for name in asked.ids.tolist()]
    assert len(places) == 2
    assert places == sorted(places)
    for row, place in enumerate(places):
        assert asked.rows[row] == every.rows[place]
        for name, values in every.features.items():
            assert asked.features[name][row].tolist() == values[place].tolist()
        for name, column in every.context.items():
            theirs = column[every.history.offsets[place] : every.history.offsets[place + 1]]
            assert asked.context[name][asked.history.users == row].tolist() == theirs.tolist()
        for found, whole in ((asked.history, every.history), (asked.labels, every.labels)):
            assert found.select([row]).items.tolist() == whole.select([place]).items.tolist()
    assert len(asked.context["context_store"]) == len(asked.history.items)


def test_few_test_users_are_all_asked(data: Transformed) -> None:
    assert data.asked().ids.tolist() == data.users("eval").ids.tolist()


def test_a_catalogue_that_lacks_an_item_is_refused(shop: Shop, tmp_path: Path) -> None:
    shutil.copytree(shop.examples / "Split-train", tmp_path / "Split-items")
    with pytest.raises(ValueError, match=r"the items split holds 0 items, expected each of the 10 once"):
        Transformed(SPEC, str(shop.graph), str(tmp_path)).catalogue()
