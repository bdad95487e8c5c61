"""Raw requests to query features: the same numbers that Transform and the timelines give in training."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tiny_shop import BASKETS, DAY, ITEMS, SPEC, SPLIT, TASTES, USERS, Shop

from twotower.models.exports import query_signature
from twotower.models.queries import Queries
from twotower.models.transformed import Transformed
from twotower.serving.item_ids import ItemIds
from twotower.serving.requests import RequestTransform, query_spec, raw_spec

N_ITEMS = len(ITEMS)


@pytest.fixture(scope="module")
def data(shop: Shop) -> Transformed:
    return shop.data()


@pytest.fixture(scope="module")
def ids(data: Transformed) -> ItemIds:
    return ItemIds(data.item_ids_file)


@pytest.fixture(scope="module")
def transform(data: Transformed, ids: ItemIds) -> RequestTransform:
    layer = data.output.transform_features_layer()
    return RequestTransform(SPEC, layer, data.query_encodings, data.item_encodings, N_ITEMS, ids, SPLIT)


def raw(**given: Any) -> dict[str, tf.Tensor]:
    """One request; what is not given is empty."""
    tensors = {}
    for name, spec in query_spec(SPEC).items():
        empty: Any = {tf.string: "", tf.int64: 0, tf.float32: np.nan}[spec.dtype]
        value = given.pop(name, empty if spec.shape.rank == 1 else [empty] * (spec.shape[1] or 0))
        tensors[name] = tf.constant([value], spec.dtype)
    assert not given
    return tensors


def numbers(features: dict[str, tf.Tensor]) -> dict[str, Any]:
    return {name: value.numpy()[0].tolist() for name, value in features.items()}


def row(data: Transformed, name: str) -> int:
    return int(np.flatnonzero(data.item_ids() == name.encode())[0])


def test_specs_of_raw_features() -> None:
    assert SPEC.items is not None
    found = {key: (spec.dtype, spec.shape.as_list()) for key, spec in raw_spec("item", SPEC.items.features).items()}
    assert found == {
        "item_brand": (tf.string, [None]),
        "item_price": (tf.float32, [None]),
        "item_title": (tf.string, [None]),
        "item_image": (tf.float32, [None, 3]),
        "item_tags": (tf.string, [None, None]),
        "item_listed": (tf.int64, [None]),
    }


def test_the_moment_is_asked_once_and_not_by_its_parts() -> None:
    assert "context_store" in query_spec(SPEC)
    assert "context_hour" not in query_spec(SPEC)
    assert "time" in query_spec(SPEC)


def test_features_are_what_the_exports_take(transform: RequestTransform, data: Transformed) -> None:
    expected = query_signature(data.query_encodings)
    for request in (raw(), raw(user_id="u1", history_item_ids=["i1"], history_times=[5], user_tastes=["hot"])):
        found = transform.query(request)
        assert set(found) == set(expected)
        for name, spec in expected.items():
            assert spec.is_compatible_with(found[name]), name


def test_item_rows_and_names(ids: ItemIds, data: Transformed) -> None:
    asked = tf.constant([["i3", "", "gone"], ["bare", "i0", "I3"]])
    expected = [[row(data, "i3"), N_ITEMS, N_ITEMS], [row(data, "bare"), row(data, "i0"), N_ITEMS]]
    assert ids.rows(asked).numpy().tolist() == expected
    assert ids.names(ids.rows(asked)).numpy().tolist() == [[b"i3", b"", b""], [b"bare", b"i0", b""]]
    assert ids.rows(tf.zeros([2, 0], tf.string)).shape == (2, 0)
    assert ids.rows(tf.zeros([0, 3], tf.string)).shape == (0, 3)


@pytest.mark.parametrize("user", range(len(USERS)))
def test_a_user_s_request_is_the_user_s_query_of_training(
    transform: RequestTransform, data: Transformed, user: int
) -> None:
    """Training and serving must not differ: the same features, the same events in the same order."""
    example, train = USERS[user], data.users("train")
    lists = ("user_tastes", "user_face")
    given = {
        name: values if name in lists else values[0] for name, values in example.items() if name.startswith("user_")
    }
    request = raw(
        **given,
        history_item_ids=example["history_item_id"] or [""],
        history_times=example["history_time"] or [0],
        time=SPLIT + 7_200,
    )
    found = numbers(transform.query(request))
    length = max(1, len(example["history_item_id"]))
    expected = numbers(
        Queries(SPEC, train, N_ITEMS).features(
            tf.constant([user]),
            tf.constant(train.history.offsets[[user + 1]]),
            tf.constant([SPLIT + 7_200], tf.int64),
            length,
        )
    )
    # Training keeps unknown items in their place as padding; a request moves them to the end.
    pairs = [
        [
            (item, age)
            for item, age in zip(each.pop("history_item_id"), each.pop("history_age"), strict=True)
            if item < N_ITEMS
        ]
        for each in (found, expected)
    ]
    np.testing.assert_allclose(pairs[0], pairs[1], rtol=1e-6)
    for tastes in (found, expected):
        tastes["user_tastes"] = [token for token in tastes["user_tastes"] if token >= 0]
    assert found == expected


def test_baskets_keep_the_order_of_training_however_they_are_sent(
    transform: RequestTransform, data: Transformed
) -> None:
    # Which of a basket's items a model with a short history sees must not depend on the caller.
    random = np.random.default_rng(1)
    for _ in range(5):
        sent = [BASKETS[place] for place in random.permutation(len(BASKETS))]
        found = transform.query(
            raw(
                history_item_ids=[item for item, _, _ in sent],
                history_times=[SPLIT - days * DAY for _, days, _ in sent],
            )
        )
        expected = [row(data, item) for item, _, _ in BASKETS[::-1]]
        assert found["history_item_id"].numpy().tolist() == [expected]
        np.testing.assert_allclose(found["history_age"][0], [10, 10, 10, 20, 40, 40])


def test_unknown_padding_and_future_events_go_to_the_end(transform: RequestTransform, data: Transformed) -> None:
    found = transform.query(
        raw(
            history_item_ids=["", "i1", "gone", "i2", "i3", "i4"],
            history_times=[0, 100, 900, 300, 1_000, -50],
            time=1_000,
        )
    )
    known = [row(data, name) for name in ("i2", "i1", "i4")]  # i3 is bought at the moment itself; i4 before 1970
    assert found["history_item_id"].numpy().tolist() == [[*known, N_ITEMS, N_ITEMS, N_ITEMS]]
    np.testing.assert_allclose(found["history_age"][0] * DAY, [700, 900, 1_050, 0, 0, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("time", "events", "now"),
    [
        (SPLIT + 3_600, [SPLIT - DAY], SPLIT + 3_600),
        (5, [], 5),
        (0, [], SPLIT),
        (0, [SPLIT - DAY], SPLIT),
        (0, [SPLIT + 2 * DAY, SPLIT - DAY], SPLIT + 2 * DAY + 1),
    ],
)
def test_now(transform: RequestTransform, time: int, events: list[int], now: int) -> None:
    found = transform.query(raw(time=time, history_item_ids=["i1"] * len(events), history_times=events))
    assert found["context_hour"].numpy().tolist() == [now % DAY // 3_600]
    ages = sorted((now - event) / DAY for event in events)
    np.testing.assert_allclose(found["history_age"][0], ages, rtol=1e-5)


def test_missing_values_get_the_stand_ins_of_training(transform: RequestTransform, data: Transformed) -> None:
    found = numbers(transform.query(raw(user_id="nobody")))
    sizes = {e.name: e.size for e in data.query_encodings}
    assert found["user_id"] == data.n_users
    assert found["user_age"] == 0
    assert found["user_face"] == [0, 0]
    assert all(token == -1 for token in found["user_tastes"])
    for name in ("user_town", "user_age_bucket", "user_joined", "context_store"):
        assert found[name] == sizes[name] - 1, name


def test_an_empty_user_id_is_an_unknown_user(transform: RequestTransform, data: Transformed) -> None:
    assert numbers(transform.query(raw()))["user_id"] == data.n_users


def test_sequences_are_padded_anywhere_and_cut_as_ingest_cuts_them(transform: RequestTransform) -> None:
    plain = numbers(transform.query(raw(user_tastes=TASTES)))["user_tastes"]
    assert len(set(plain)) == 2
    longer = numbers(transform.query(raw(user_tastes=[*TASTES, "hot", "hot"])))["user_tastes"]
    padded = numbers(transform.query(raw(user_tastes=[TASTES[0], ""])))["user_tastes"]
    assert [token for token in longer if token >= 0] == plain
    assert [token for token in padded if token >= 0] == plain[:1]


def test_raw_items_are_the_catalogue(transform: RequestTransform, data: Transformed) -> None:
    assert SPEC.items is not None
    catalogue, lists = data.catalogue(), ("item_image", "item_tags")
    for item in ITEMS:
        given = {}
        for name, spec in {
            "item_id": tf.TensorSpec([None], tf.string),
            **raw_spec("item", SPEC.items.features),
        }.items():
            empty: Any = {tf.string: "", tf.int64: 0, tf.float32: np.nan}[spec.dtype]
            values = item.get(name, [empty] * ((spec.shape[1] or 0) if name in lists else 1))
            given[name] = tf.constant([values if name in lists else values[0]], spec.dtype)
        found = numbers(transform.items(given))
        at = row(data, item["item_id"][0].decode())
        assert found.pop("item_id") == at
        for name, value in found.items():
            expected = catalogue.features[name][at].tolist()
            pair = [value, expected]
            if name in ("item_tags", "item_title"):
                pair = [[token for token in tokens if token >= 0] for tokens in pair]
            np.testing.assert_allclose(pair[0], pair[1], rtol=1e-6, err_msg=name)
