"""Retrieval training: the draws, the logQ correction, and that the towers learn what is known to be right."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pydantic
import pytest
import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.features.model_choices import TwoTower
from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.candidates import embed_catalogue
from twotower.models.contract import Towers, TrainingData
from twotower.models.exports import TowersExport
from twotower.models.queries import Queries
from twotower.models.retrieval import Retrieval, build_towers, fit
from twotower.models.tables import Catalogue, Users
from twotower.models.towers import CandidateTower, QueryTower
from twotower.models.training_events import TrainingEvents, training_dataset, two_tower

DAY = 86_400
SPLIT_DAY = 100
# The towers alone: what is learned, and nothing shrunk.
PLAIN = {
    "embedding_dim": 6,
    "graph_factors": 0,
    "tower_units": [8],
    "history_length": 4,
    "min_id_count": 1,
    "events_per_user": 1,
    "prior_half_life_days": 30,
    "affinity_weight": 0.5,
}
Event = tuple[int, int, float]  # user, item, day


def shop_spec(**retrieval: Any) -> Spec:
    return Spec.model_validate(
        {
            "name": "shop",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": "1970-04-11"},
            "retrieval": {**PLAIN, **retrieval},
        }
    )


def people(events: list[Event], n_users: int) -> Users:
    users, items, days = np.array(events, dtype=np.float64).reshape(-1, 3).T
    history = Timelines.from_events(
        users.astype(np.int64),
        items.astype(np.int32),
        (days * DAY).astype(np.int64),
        np.ones(len(users), np.float32),
        n_users,
    )
    rows = np.arange(n_users)
    return Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0))


def catalogue_of(n_items: int, features: dict[str, npt.NDArray[Any]] | None = None, encodings: Any = ()) -> Catalogue:
    return Catalogue(np.array([b"%d" % n for n in range(n_items)], dtype=object), features or {}, list(encodings))


def trained(spec: Spec, users: Users, catalogue: Catalogue, steps: int) -> tuple[Retrieval, TrainingEvents]:
    n_items = len(catalogue)
    events = TrainingEvents.choose(spec, users, n_items)
    tf.keras.utils.set_random_seed(spec.seed)
    query, candidate = build_towers(spec, catalogue, users, len(users), events)
    model = Retrieval(query, candidate, catalogue, events.item_share, spec)
    model.compile(optimizer=tf.keras.optimizers.Adagrad(two_tower(spec).learning_rate))
    model.fit(training_dataset(spec, users, n_items, events, spec.seed), steps_per_epoch=steps, verbose=0)
    return model, events


def item_scores(model: Retrieval, spec: Spec, users: Users, catalogue: Catalogue) -> npt.NDArray[Any]:
    """[users, items] at the split."""
    rows, n_items = np.arange(len(users)), len(catalogue)
    features = Queries(spec, users, n_items).features(
        tf.constant(rows),
        tf.constant(users.history.offsets[1:]),
        tf.fill([len(users)], tf.constant(SPLIT_DAY * DAY, tf.int64)),
        spec.retrieval.history_length,
    )
    items = model.candidate(model.item_features(tf.range(n_items)))
    return np.asarray(model.query(features) @ tf.transpose(items))


class TestTrainingEvents:
    def test_shares_by_hand(self) -> None:
        spec = shop_spec(recency_half_life_days=10)
        # User 0 bought item 0 twice, which is one pair; 20 days old weighs 1/4 of new, 10 days 1/2. Item 3 is unknown.
        users = people([(0, 0, 100), (0, 0, 90), (1, 1, 80), (0, 3, 99), (1, 2, 90)], 2)
        events = TrainingEvents.choose(spec, users, 3)
        weights = np.array([(1 + 0.5) / 2, 0.25, 0.5])
        np.testing.assert_allclose(events.item_share, weights / weights.sum())
        assert events.cumulative[-1] == pytest.approx(1)
        assert users.history.items[events.events].tolist() == [0, 0, 1, 2]

    def test_the_prior_has_a_half_life_of_its_own(self) -> None:
        spec = shop_spec(recency_half_life_days=10, prior_half_life_days=20)
        events = TrainingEvents.choose(spec, people([(0, 0, 90), (0, 1, 70)], 1), 2)
        np.testing.assert_allclose(events.item_share, [4 / 5, 1 / 5])
        np.testing.assert_allclose(events.prior_share, [2 / 3, 1 / 3])

    def test_what_an_event_weighs(self) -> None:
        # User 0 bought item 0 three times, 7 pieces each time, and item 1 once, one piece.
        users = people([(0, 0, 90), (0, 0, 90), (0, 0, 90), (0, 1, 90)], 1)
        users = replace(users, history=replace(users.history, quantities=np.array([7, 7, 7, 1], np.float32)))
        found = {
            weight: TrainingEvents.choose(shop_spec(event_weight=weight), users, 2).item_share[0]
            for weight in ("pair", "event", "quantity")
        }
        # log(1 + 7) is three times log(1 + 1).
        assert found == pytest.approx({"pair": 1 / 2, "event": 3 / 4, "quantity": 9 / 10})

    def test_old_data_under_a_short_half_life_still_has_shares(self) -> None:
        # 2^-(90 / 0.01) is 0 in any float: only how much older than the newest event counts.
        events = TrainingEvents.choose(shop_spec(recency_half_life_days=0.01), people([(0, 0, 10), (0, 1, 9.99)], 1), 2)
        np.testing.assert_allclose(events.item_share, [2 / 3, 1 / 3])

    def test_the_prior_is_finite_for_what_was_never_bought(self) -> None:
        events = TrainingEvents.choose(shop_spec(), people([(0, 0, 90)], 1), 4)
        # A share of 1 and a tenth of a draw spread over 4 items, relative to the even share of 1/4.
        expected = np.log([4 * (1 + 0.1 / 4), 0.1, 0.1, 0.1, 0.1])
        np.testing.assert_allclose(events.log_prior, expected, rtol=1e-6)

    def test_no_known_item_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="at least one event with an item of the catalogue, found none"):
            TrainingEvents.choose(shop_spec(), people([(0, 2, 90)], 1), 2)


def random_shop(n_users: int = 12, n_items: int = 6, n_events: int = 120) -> Users:
    random = np.random.default_rng(7)
    return people(
        [
            (int(random.integers(n_users)), int(random.zipf(1.5)) % (n_items + 1), float(random.integers(100)))
            for _ in range(n_events)
        ],
        n_users,
    )


class TestTrainingDataset:
    def test_draws_have_the_shares_of_the_correction(self) -> None:
        spec, users = shop_spec(batch_size=1_000), random_shop()
        events = TrainingEvents.choose(spec, users, 6)
        batches = training_dataset(spec, users, 6, events, seed=1).take(40)
        drawn = np.concatenate([batch["positive"].numpy() for batch in batches])
        # 40,000 draws: the standard error of a share is at most 0.0025.
        np.testing.assert_allclose(np.bincount(drawn, minlength=6) / len(drawn), events.item_share, atol=0.01)

    def test_several_positives_a_query_come_from_one_basket_with_the_same_shares(self) -> None:
        spec, users = shop_spec(batch_size=1_000, events_per_user=4, recency_half_life_days=20), random_shop()
        events = TrainingEvents.choose(spec, users, 6)
        baskets = {
            (user, time): set(users.history.items[(users.history.users == user) & (users.history.times == time)])
            for user, time in zip(users.history.users, users.history.times, strict=True)
        }
        drawn = []
        for batch in training_dataset(spec, users, 6, events, seed=1).take(40):
            assert len(batch["user_id"]) == 250
            positives = batch["positive"].numpy().reshape(250, 4)
            drawn.append(positives.ravel())
            for user, several in zip(batch["user_id"].numpy(), positives, strict=True):
                assert any(set(several) <= basket for (owner, _), basket in baskets.items() if owner == user)
            own = batch["history_item_id"].numpy()[:, :, np.newaxis] == positives[:, np.newaxis]
            assert not own.any()
        shares = np.bincount(np.concatenate(drawn), minlength=6) / 40_000
        np.testing.assert_allclose(shares, events.item_share, atol=0.015)

    def test_histories_are_as_long_as_the_longest_of_the_batch(self) -> None:
        # Ten events on ten days: the last one's history has nine.
        users = people([(0, item % 5, 80 + item) for item in range(10)], 1)
        for length, expected in ((50, 9), (4, 4)):
            spec = shop_spec(batch_size=500, history_length=length)
            events = TrainingEvents.choose(spec, users, 5)
            [batch] = training_dataset(spec, users, 5, events, seed=1).take(1)
            assert batch["history_item_id"].shape[1] == batch["history_age"].shape[1] == expected

    def test_without_an_order_all_else_is_history(self) -> None:
        users = people([(0, 0, 90), (0, 1, 90), (0, 2, 90), (1, 3, 90)], 2)
        spec = shop_spec(batch_size=100)
        [batch] = training_dataset(spec, users, 6, TrainingEvents.choose(spec, users, 6), seed=1).take(1)
        for items, positive in zip(batch["history_item_id"].numpy(), batch["positive"].numpy(), strict=True):
            assert set(items) - {6} == {0, 1, 2, 3} - {positive} - ({3} if positive < 3 else {0, 1, 2})

    def test_positives_are_not_in_their_own_histories_nor_is_their_future(self) -> None:
        spec, users = shop_spec(batch_size=200), random_shop()
        events = TrainingEvents.choose(spec, users, 6)
        met = 0
        for batch in training_dataset(spec, users, 6, events, seed=1).take(5):
            items, ages = batch["history_item_id"].numpy(), batch["history_age"].numpy()
            assert not (items == batch["positive"].numpy()[:, np.newaxis]).any()
            assert (ages[items < 6] > 0).all()
            met += int((items < 6).sum())
        assert met > 1_000

    def test_batches_repeat_for_a_seed_and_differ_between_steps(self) -> None:
        spec, users = shop_spec(batch_size=64), random_shop()
        events = TrainingEvents.choose(spec, users, 6)
        first, second, other = (
            [batch["positive"].numpy().tolist() for batch in training_dataset(spec, users, 6, events, seed).take(2)]
            for seed in (1, 1, 2)
        )
        assert first == second != other
        assert first[0] != first[1]

    def test_a_batch_of_one_is_refused(self) -> None:
        # In-batch negatives of one example: the loss is always 0.
        with pytest.raises(pydantic.ValidationError, match="greater than 1"):
            shop_spec(batch_size=1)


class Pair(tf.Module):  # type: ignore[misc]
    """Towers that are tables of scores: one query, and an item's score its weight."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.weights = tf.Variable(tf.zeros([n_items]))

    def query(self, inputs: Any, training: bool) -> tf.Tensor:
        return tf.ones([tf.shape(inputs["positive"])[0], 1])

    def candidate(self, features: Any, training: bool) -> tf.Tensor:
        return tf.gather(self.weights, features["item_id"])[:, tf.newaxis]


def learned_scores(share: npt.NDArray[np.float64], *, correction: bool, uniform: int, batch: int) -> npt.NDArray[Any]:
    """Scores that training converges to when item i is a positive with probability ``share[i]``."""
    n_items = len(share)
    spec = shop_spec(uniform_negatives=uniform, logq_correction=correction)
    towers: Any = Pair(n_items)
    model = Retrieval(towers.query, towers.candidate, catalogue_of(n_items), share, spec)
    random = np.random.default_rng(1)
    tf.random.set_seed(1)
    optimizer = tf.keras.optimizers.Adam(0.02)

    @tf.function
    def step(positives: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = model.compute_loss({"positive": positives}, training=True)
        optimizer.apply_gradients([(tape.gradient(loss, towers.weights), towers.weights)])

    kept = []
    for number in range(3_000):
        step(tf.constant(random.choice(n_items, batch, p=share), tf.int32))
        if number >= 1_000:
            kept.append(towers.weights.numpy())
    found = np.mean(kept, axis=0)
    return np.asarray(found - found.mean())


class TestLogQ:
    """With the correction, scores become the log probabilities of the positives, however negatives were sampled."""

    SHARE = np.geomspace(0.3, 0.003, 20) / np.geomspace(0.3, 0.003, 20).sum()

    def slope(self, found: npt.NDArray[Any]) -> float:
        """How far scores follow the log probabilities: 1 = fully, 0 = not at all."""
        return float(np.polyfit(np.log(self.SHARE), found, 1)[0])

    # In a batch of 64 the first item is expected 13 times and the last 0.1 times; in one of 6, 1.2 and 0.01 times.
    @pytest.mark.parametrize(("batch", "uniform"), [(64, 0), (64, 16), (6, 6), (6, 40)])
    def test_the_correction_recovers_the_probabilities(self, batch: int, uniform: int) -> None:
        found = learned_scores(self.SHARE, correction=True, uniform=uniform, batch=batch)
        assert self.slope(found) == pytest.approx(1, abs=0.1)
        assert np.corrcoef(np.log(self.SHARE), found)[0, 1] > 0.98

    def test_without_it_popular_items_are_punished_for_being_sampled(self) -> None:
        # In-batch negatives alone come as often as the positives do.
        found = learned_scores(self.SHARE, correction=False, uniform=0, batch=6)
        assert self.slope(found) < 0.5


def blocks(seed: int = 1) -> Users:
    """Users 0-29 buy items 0-5, users 30-59 items 6-11; each buys five of six, so that one is left to predict."""
    random = np.random.default_rng(seed)
    return people(
        [
            (user, int(item) + 6 * (user // 30), float(random.integers(50, 100)))
            for user in range(60)
            for item in random.permutation(6)[:5]
        ],
        60,
    )


BLOCKS_SPEC = shop_spec(
    batch_size=64, uniform_negatives=16, learning_rate=0.2, id_dropout=0.2, recency_half_life_days=1000
)


FEW_STEPS = {"learning_rate": 0.01, "epochs": 3, "events_per_epoch": 64 * 50}


class TestTraining:
    def test_a_block_matrix_is_learned(self) -> None:
        users, catalogue = blocks(), catalogue_of(12)
        model, _ = trained(BLOCKS_SPEC, users, catalogue, 250)
        scores = item_scores(model, BLOCKS_SPEC, users, catalogue)
        own, other = scores[:, :6].copy(), scores[:, 6:].copy()
        own[30:], other[30:] = scores[30:, 6:], scores[30:, :6]
        # Every item of a user's own block above every one of the other, the one never bought too.
        assert (own.min(axis=1) > other.max(axis=1)).mean() > 0.95

    @pytest.mark.parametrize(
        "choice",
        [
            {"history_encoder": "attention"},
            {"history_encoder": "self_attention"},
            {"similarity": "cosine", "temperature": "learned"},
            {"similarity": "cosine", "temperature": 0.2, "hard_negatives": 0.5},
            {"graph_factors": 3, "learning_rate_schedule": "warmup_cosine"},
            {"events_per_user": 4, "event_weight": "quantity", "validation_days": 10},
        ],
        ids=" ".join,
    )
    def test_every_choice_learns_a_block_matrix(self, choice: dict[str, Any], tmp_path: Path) -> None:
        users, catalogue = blocks(), catalogue_of(12)
        whole = {**BLOCKS_SPEC.retrieval.model_dump(), **FEW_STEPS, **choice}
        spec = BLOCKS_SPEC.model_copy(update={"retrieval": TwoTower.model_validate(whole)})
        towers = fit(TrainingData(spec, catalogue, users, 60, tmp_path))
        query, candidate = cast(QueryTower, towers.query), cast(CandidateTower, towers.candidate)
        model = Retrieval(query, candidate, catalogue, np.ones(12) / 12, spec)
        scores = item_scores(model, spec, users, catalogue)
        own, other = scores[:, :6].copy(), scores[:, 6:].copy()
        own[30:], other[30:] = scores[30:, 6:], scores[30:, :6]
        assert (own.mean(axis=1) > other.mean(axis=1)).mean() > 0.95

    def test_two_runs_give_the_same_weights(self) -> None:
        users, catalogue = blocks(), catalogue_of(12)
        first, second = (trained(BLOCKS_SPEC, users, catalogue, 20)[0].get_weights() for _ in range(2))
        assert len(first) == len(second) > 8
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_unknown_users_and_items_get_the_shared_row_as_training_left_it(self) -> None:
        users, catalogue = blocks(), catalogue_of(12)
        spec = BLOCKS_SPEC
        events = TrainingEvents.choose(spec, users, 12)
        tf.keras.utils.set_random_seed(spec.seed)
        query, candidate = build_towers(spec, catalogue, users, len(users), events)
        layers: list[Any] = [query.user_ids, query.history_items, candidate.item_ids]
        unknown = tf.constant([60]), tf.constant([12]), tf.constant([12])
        before = [layer(ids).numpy() for layer, ids in zip(layers, unknown, strict=True)]
        model = Retrieval(query, candidate, catalogue, events.item_share, spec)
        model.compile(optimizer=tf.keras.optimizers.Adagrad(two_tower(spec).learning_rate))
        model.fit(training_dataset(spec, users, 12, events, 1), steps_per_epoch=20, verbose=0)
        for layer, ids, old in zip(layers, unknown, before, strict=True):
            assert np.abs(layer(ids).numpy() - old).max() > 1e-5

    def test_items_and_users_without_interactions_survive(self) -> None:
        # Item 3 was never bought, item 4 only by its features; user 2 never bought, user 1 something unknown.
        spec = shop_spec(batch_size=8, uniform_negatives=4)
        users = people([(0, 0, 50), (0, 1, 60), (1, 5, 70), (3, 2, 80)], 4)
        price = np.array([0.1, 0.2, 0.3, 0.4, 9.0], np.float32)
        catalogue = catalogue_of(5, {"item_price": price}, [Encoding("item_price", "number", 1)])
        model, _ = trained(spec, users, catalogue, 5)
        scores = item_scores(model, spec, users, catalogue)
        assert scores.shape == (4, 5)
        assert np.isfinite(scores).all()
        export = TowersExport(
            Towers(model.query, model.candidate), [], catalogue.encodings, spec.retrieval.history_length
        )
        embedded = embed_catalogue(export, catalogue)
        assert not np.allclose(embedded[3], embedded[4])
        assert np.linalg.norm(embedded[:, :-1], axis=1).min() > 0
