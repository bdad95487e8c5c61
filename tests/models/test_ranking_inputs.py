"""The ranker's training lists: candidates and features as of each list's snapshot, and the batches made of them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.features.promotions import Promotions
from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.queries import Queries
from twotower.models.ranking_features import RankingFeatures, Snapshot, item_groups
from twotower.models.ranking_inputs import past_candidates, training_dataset, training_lists
from twotower.models.ranking_lists import NoLists
from twotower.models.tables import Catalogue, Users

DAY = 86_400
SPLIT = 100
N_ITEMS = 12
BRANDS = Encoding("item_brand", "index", 4)
CATALOGUE = Catalogue(
    np.arange(N_ITEMS).astype(object),
    {"item_brand": np.arange(N_ITEMS) % 3, "item_words": np.array([[n // 4, -1] for n in range(N_ITEMS)])},
    [BRANDS, Encoding("item_words", "indices", 9)],
)


def shop_spec(**ranking: Any) -> Spec:
    choice = {"horizon_days": 10, "snapshots": 2, "snapshot_days": 20, "list_size": 8, "candidates": 3, "batch_size": 4}
    return Spec.model_validate(
        {
            "name": "shop",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": "1970-04-11"},  # day 100
            "ranking": {**choice, "history_length": 20, **ranking},
        }
    )


def shoppers(n_users: int = 9, until: int = SPLIT) -> Users:
    """Everyone buys two of four items of their own every five days."""
    random = np.random.default_rng(0)
    events = [
        (user, (3 * user + int(item)) % N_ITEMS, day)
        for user in range(n_users)
        for day in range(user, until, 5)
        for item in random.permutation(4)[:2]
    ]
    users, items, days = np.array(events, dtype=np.int64).T
    ones = np.ones(len(users), np.float32)
    history = Timelines.from_events(users, items.astype(np.int32), days * DAY, ones, n_users)
    rows = np.arange(n_users)
    return Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0))


def test_groups_are_labels_and_equal_words() -> None:
    groups = item_groups(CATALOGUE)
    assert {name: rows.tolist() for name, rows in groups.items()} == {
        "brand": [0, 1, 2] * 4 + [3],
        "words": [0] * 4 + [1] * 4 + [2] * 4 + [3],
    }
    # Words of which nearly every item has its own make no groups, and no words are no group to share.
    own = {"item_words": np.arange(N_ITEMS)[:, np.newaxis]}
    assert not item_groups(Catalogue(CATALOGUE.ids, own, CATALOGUE.encodings[1:]))
    none = {"item_words": np.array([[-1, -1], [5, -1]] * 6)}
    found = item_groups(Catalogue(CATALOGUE.ids, none, CATALOGUE.encodings[1:]))["words"]
    assert found.tolist() == [2, 1] * 6 + [2]


def test_lists_and_numbers_are_those_of_their_snapshot() -> None:
    spec, users = shop_spec(), shoppers()
    queries = Queries(spec, users, N_ITEMS)
    training = training_lists(spec, users, queries, CATALOGUE)
    lists = training.lists
    assert sorted(set(lists.times.tolist())) == [70 * DAY, 90 * DAY]
    groups = item_groups(CATALOGUE)
    for at in (70, 90):
        snapshot = Snapshot.take(spec, users.history, CATALOGUE, groups, at * DAY)
        features = RankingFeatures(groups, snapshot)
        for row in np.flatnonzero(lists.times == at * DAY)[:3]:
            asked = queries.features(
                tf.constant(lists.users[[row]]), tf.constant(lists.cuts[[row]]), tf.constant([at * DAY], tf.int64), 20
            )
            expected = features(asked, tf.constant(lists.candidates[[row]]))[0]
            assert expected.shape[1] == len(features.names)
            np.testing.assert_allclose(training.numbers[row], expected, rtol=2e-3, atol=2e-3)


def test_a_snapshot_knows_the_promotions_of_its_moment() -> None:
    shop = shop_spec().model_dump(by_alias=True)
    table = {"path": "p.csv", "item": "item", "from": "from", "until": "until", "known_days": 3}
    spec = Spec.model_validate({**shop, "promotions": table})
    days = np.array([[60, 80], [73, 75], [74, 99]]) * DAY  # the last one is not known yet on day 70
    on = {"on": np.ones(3, np.float32)}
    promotions = Promotions(np.array([4, 5, 6], np.int32), days[:, 0], days[:, 1], on)
    catalogue = replace(CATALOGUE, promotions=promotions)
    history = shoppers().history
    snapshot = Snapshot.take(spec, history, catalogue, item_groups(catalogue), 70 * DAY)
    assert np.flatnonzero(snapshot.statistics["promotion_on_now"]).tolist() == [4]
    assert np.flatnonzero(snapshot.statistics["promotion_on_ahead"]).tolist() == [4, 5]
    names = RankingFeatures(item_groups(catalogue), snapshot).names
    assert [name for name in names if "promotion" in name] == [
        f"shop_promotion_on_{name}" for name in ("now", "ahead", "before", "usual", "peak")
    ]
    without = Snapshot.take(shop_spec(), history, CATALOGUE, item_groups(CATALOGUE), 70 * DAY)
    assert not [name for name in without.statistics if "promotion" in name]


def test_the_future_of_a_snapshot_changes_its_labels_alone() -> None:
    spec, users = shop_spec(snapshots=1), shoppers()
    history = users.history
    late = history.times >= 90 * DAY
    changed = Timelines(
        history.offsets,
        np.where(late, (history.items + 5) % N_ITEMS, history.items).astype(np.int32),
        *(history.times, history.quantities),
    )
    others = Users(users.ids, users.rows, {}, [], changed, {}, users.labels)
    at, rows, found = 90 * DAY, np.arange(len(users)), []
    times = np.full(len(rows), at)
    for each in (users, others):
        snapshot = Snapshot.take(spec, each.history, CATALOGUE, item_groups(CATALOGUE), at)
        queries = Queries(spec, each, N_ITEMS)
        retrieved = past_candidates(snapshot, queries, N_ITEMS, 20, 3)(rows, queries.cuts(rows, times), times)
        found.append((retrieved, snapshot.vectors.vectors, *snapshot.statistics.values()))
    for before, after in zip(*found, strict=True):
        np.testing.assert_array_equal(before, after)
    assert found[0][0].shape == (len(rows), 6)


def test_batches_hold_every_list_once() -> None:
    spec, users = shop_spec(snapshots=1), shoppers()
    queries = Queries(spec, users, N_ITEMS)
    training = training_lists(spec, users, queries, CATALOGUE)
    lists, seen = training.lists, []
    for batch in training_dataset(spec, queries, training, seed=3):
        for place, user in enumerate(batch["user_id"].numpy()):
            (row,) = np.flatnonzero(lists.users == user)
            np.testing.assert_array_equal(batch["candidates"][place], lists.candidates[row])
            seen.append(row)
            for key in ("bought", "quantity", "weight"):
                np.testing.assert_array_equal(batch[key][place], getattr(lists, key)[row])
            np.testing.assert_array_equal(batch["numbers"][place], training.numbers[row].astype(np.float32))
    assert sorted(seen) == list(range(len(lists)))


def test_snapshots_before_the_data_are_left_out() -> None:
    spec, users = shop_spec(snapshots=3, snapshot_days=45), shoppers()
    times = training_lists(spec, users, Queries(spec, users, N_ITEMS), CATALOGUE).lists.times
    assert sorted({int(time) // DAY for time in times}) == [45, 90]
    nobody = shoppers(until=9)
    with pytest.raises(NoLists, match="found none"):
        training_lists(spec, nobody, Queries(spec, nobody, N_ITEMS), CATALOGUE)
