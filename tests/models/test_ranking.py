"""The ranker: what it knows of items, what padding does, and that it learns who buys again."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.features.encoding import Encoding
from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.queries import Queries
from twotower.models.ranking import RECENT_DAYS, Ranking, RankingNetwork, item_statistics
from twotower.models.ranking_lists import build_lists, list_features, training_dataset
from twotower.models.tables import Catalogue, Users

DAY = 86_400
Event = tuple[int, int, int]  # user, item, day


def timelines(events: list[Event], n_users: int) -> Timelines:
    users, items, days = np.array(events, dtype=np.int64).reshape(-1, 3).T
    ones = np.ones(len(users), np.float32)
    return Timelines.from_events(users, items.astype(np.int32), days * DAY, ones, n_users)


class TestItemStatistics:
    def test_by_hand(self) -> None:
        assert RECENT_DAYS == (30, 90)
        events = [
            *[(0, 0, 100), (0, 0, 150), (0, 0, 199)],  # again, and within 30 days of day 200
            *[(1, 0, 170), (1, 0, 170)],  # twice in one basket is not again; day 170 is 30 days before
            *[(2, 0, 169), (2, 1, 110)],  # 31 and 90 days before
            *[(1, 1, 109)],
            *[(0, 3, 150), (3, 3, 200)],  # 3 = out of vocabulary; day 200 is not before
            *[(3, 1, 200), (3, 2, 201)],
        ]
        found = item_statistics(timelines(events, 4), 200 * DAY, 3)
        # Item 0 has 3 buyers of whom 1 bought again, item 1 has 2 of whom none: the average rate is 1 / 5.
        expected = [
            [np.log1p(3), (1 + 0.4) / 5, np.log1p(2), np.log1p(3)],
            [np.log1p(2), (0 + 0.4) / 4, np.log1p(0), np.log1p(1)],
            [0, 0.4 / 2, 0, 0],
            [0, 0.4 / 2, 0, 0],
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_nothing_known(self) -> None:
        assert not item_statistics(timelines([(0, 1, 5)], 1), 5 * DAY, 2).any()

    @settings(max_examples=50, deadline=None)
    @given(
        *[st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 20)), max_size=30)] * 2,
        st.integers(0, 21),
    )
    def test_what_happens_at_or_after_the_moment_changes_nothing(
        self, events: list[Event], changes: list[Event], at: int
    ) -> None:
        replaced = [e for e in events if e[2] < at] + [e for e in changes if e[2] >= at]
        before, after = (item_statistics(timelines(each, 4), at * DAY, 4) for each in (events, replaced))
        np.testing.assert_array_equal(before, after)


BRANDS = Encoding("item_brand", "index", 3)
ENCODINGS = [BRANDS, Encoding("item_words", "indices", 4), Encoding("item_price", "number", 1)]
CATALOGUE = Catalogue(
    ids=np.array([b"a", b"b", b"c"], dtype=object),
    features={
        "item_brand": np.array([0, 0, 2]),
        "item_words": np.array([[1, -1], [2, 3], [-1, -1]]),
        "item_price": np.array([0.5, -0.5, 0.0], np.float32),
    },
    encodings=ENCODINGS,
)
N_ITEMS = len(CATALOGUE)


@pytest.fixture
def network() -> RankingNetwork:
    tf.keras.utils.set_random_seed(1)
    statistics = item_statistics(timelines([(0, 0, 1), (0, 0, 2), (1, 2, 2)], 2), 9 * DAY, N_ITEMS)
    return RankingNetwork([Encoding("context_hour", "index", 25)], CATALOGUE, statistics, units=[8])


def scores(network: RankingNetwork, items: list[int], ages: list[float], candidates: list[int]) -> npt.NDArray[Any]:
    """[candidates, 2] scores of both tasks."""
    asked = tf.constant([candidates], tf.int32)
    features = {
        "history_item_id": tf.constant([items], tf.int32),
        "history_age": tf.constant([ages], tf.float32),
        "context_hour": tf.zeros([1], tf.int64),
    }
    found = network(features, asked, tf.gather(network.statistics, asked))
    return np.stack([found["bought"][0], found["quantity"][0]], axis=1)


class TestRankingNetwork:
    def test_a_candidate_s_score_does_not_depend_on_the_others_or_on_padding(self, network: RankingNetwork) -> None:
        together = scores(network, [0, 2], [1.0, 5.0], [0, N_ITEMS, 1, 2])
        assert np.isfinite(together).all()
        for place, candidate in enumerate([0, N_ITEMS, 1, 2]):
            np.testing.assert_allclose(scores(network, [0, 2], [1.0, 5.0], [candidate])[0], together[place], atol=1e-6)

    def test_padding_of_the_history_changes_nothing(self, network: RankingNetwork) -> None:
        short = scores(network, [0, 2], [1.0, 5.0], [0, 1, 2])
        padded = scores(network, [0, 2, N_ITEMS, N_ITEMS], [1.0, 5.0, 0.0, 0.0], [0, 1, 2])
        np.testing.assert_allclose(padded, short, atol=1e-6)

    def test_empty_histories(self, network: RankingNetwork) -> None:
        padded = scores(network, [N_ITEMS], [0.0], [0, 1])
        np.testing.assert_allclose(scores(network, [], [], [0, 1]), padded, atol=1e-6)

    def test_an_event_of_the_brand_matters_to_its_items_only(self, network: RankingNetwork) -> None:
        # Item 2's brand is unknown, and unknown is no brand to share: ages there change its own score alone.
        base, moved = (scores(network, [0, 2], [age, 5.0], [0, 1, 2]) for age in (1.0, 60.0))
        assert (np.abs(base - moved).max(axis=1) > 1e-5).tolist() == [True, True, False]
        base, moved = (scores(network, [0, 2], [1.0, age], [0, 1, 2]) for age in (5.0, 60.0))
        assert (np.abs(base - moved).max(axis=1) > 1e-5).tolist() == [False, False, True]

    def test_of_two_items_of_unknown_brand_neither_shares(self) -> None:
        unknown = {**CATALOGUE.features, "item_brand": np.array([2, 2, 2])}
        statistics = np.zeros((N_ITEMS + 1, 4), np.float32)
        network = RankingNetwork(
            [Encoding("context_hour", "index", 25)],
            Catalogue(CATALOGUE.ids, unknown, ENCODINGS),
            statistics,
            units=[8],
        )
        base, moved = (scores(network, [0], [age], [1]) for age in (1.0, 60.0))
        np.testing.assert_allclose(base, moved, atol=1e-6)


SPEC = Spec.model_validate(
    {
        "name": "shop",
        "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
        "split": {"test_from": "1970-06-01"},
        "ranking": {"horizon_days": 10, "list_size": 10, "history_length": 20, "units": [16], "batch_size": 16},
    }
)


def habits(seed: int, n_users: int, n_items: int) -> Users:
    """Everyone buys two items every five days, and each other item at most once, before day 40; 40 to 50 repeats."""
    random = np.random.default_rng(seed)
    events: list[Event] = []
    for user in range(n_users):
        items = random.permutation(n_items)
        events += [(user, item, day) for item in items[:2] for day in range(3, 50, 5)]
        events += [(user, item, int(random.integers(0, 40))) for item in items[2:6]]
    history = timelines(events, n_users)
    rows = np.arange(n_users)
    return Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0))


def test_repeat_purchases_are_learned() -> None:
    n_items, snapshot = 12, 40 * DAY
    every = np.arange(n_items, dtype=np.int32)

    def lists(users: Users) -> Any:
        return build_lists(
            SPEC, users, n_items, [snapshot], 50 * DAY, lambda rows, *_: np.tile(every, (len(rows), 1)), seed=1
        )

    tf.keras.utils.set_random_seed(1)
    train, test = habits(1, 100, n_items), habits(2, 40, n_items)
    catalogue = Catalogue(every.astype(object), {}, [])
    statistics = item_statistics(train.history, snapshot, n_items)
    network = RankingNetwork([], catalogue, statistics, units=SPEC.ranking.units)
    model = Ranking(network, SPEC)
    model.compile(optimizer=tf.keras.optimizers.Adam(0.02))
    model.fit(training_dataset(SPEC, Queries(SPEC, train, n_items), lists(train), 1), epochs=12, verbose=0)
    asked = lists(test)
    features = list_features(Queries(SPEC, test, n_items), asked, tf.range(len(asked), dtype=tf.int64), 20)
    found = network(features, features["candidates"], features["statistics"])
    real = asked.weight > 0
    labels, predicted = asked.bought[real], found["bought"].numpy()[real]
    assert labels.mean() == pytest.approx(0.2)  # two of the ten in each list of ten
    auc = tf.keras.metrics.AUC(from_logits=True)
    auc.update_state(labels, predicted)
    assert float(auc.result()) > 0.99
    # Probabilities are of all candidates, two of twelve, not of the eight negatives that were kept of ten.
    probabilities = 1 / (1 + np.exp(-predicted))
    assert np.average(probabilities, weights=asked.weight[real]) == pytest.approx(2 / 12, abs=0.03)


def test_the_loss_by_hand() -> None:
    tf.keras.utils.set_random_seed(1)
    network = RankingNetwork(
        [], Catalogue(np.array([b"a", b"b"], object), {}, []), np.zeros((3, 4), np.float32), units=[4]
    )
    model = Ranking(network, SPEC)
    inputs = {
        "history_item_id": tf.constant([[0, 2]], tf.int32),
        "history_age": tf.constant([[3.0, 0.0]]),
        "candidates": tf.constant([[0, 1, 2]], tf.int32),
        "statistics": tf.zeros([1, 3, 4]),
        "bought": tf.constant([[1.0, 0.0, 0.0]]),
        "quantity": tf.constant([[3.0, 0.0, 0.0]]),
        "weight": tf.constant([[1.0, 2.0, 0.0]]),
    }
    found = network(inputs, inputs["candidates"], inputs["statistics"])
    (yes, no, _), (amount, _, _) = found["bought"][0].numpy(), found["quantity"][0].numpy()
    # Means over the three places, the padding included: cross-entropies weighted 1 and 2, squared error of log1p(3).
    bought = (np.log1p(np.exp(-yes)) + 2 * np.log1p(np.exp(no))) / 3
    quantity = (amount - np.log(4)) ** 2 / 3
    assert float(model.compute_loss(inputs)) == pytest.approx(
        bought + SPEC.ranking.quantity_weight * quantity, rel=1e-5
    )
    padded = {**inputs, "quantity": tf.constant([[3.0, 7.0, 9.0]])}
    assert float(model.compute_loss(padded)) == float(model.compute_loss(inputs))  # what is not bought has no quantity
