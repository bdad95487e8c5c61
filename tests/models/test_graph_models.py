"""LightGCN, UltraGCN and PinSage on graphs that are small enough to work out by hand."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.sparse
import tensorflow as tf

from twotower.features.encoding import Encoding
from twotower.features.model_choices import LightGcn, PinSage, UltraGcn
from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.contract import TrainingData
from twotower.models.family import lightgcn, pinsage, ultragcn
from twotower.models.family.item_neighbours import Neighbours, walk
from twotower.models.tables import Catalogue, Users

# Three users and four items; nobody bought the last one.
PURCHASES = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0]], np.float32)
EMBEDDINGS = np.array([[1, 0], [0, 1], [2, -1], [3, 3]], np.float32)


def purchases() -> scipy.sparse.csr_matrix:
    return scipy.sparse.csr_matrix(PURCHASES)


def timelines(users: list[int], items: list[int], n_users: int) -> Timelines:
    times = np.arange(len(users), dtype=np.int64)
    return Timelines.from_events(
        np.array(users, np.int64), np.array(items, np.int32), times, np.ones(len(users), np.float32), n_users
    )


class TestLightGcn:
    @staticmethod
    def dense(layers: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Equation 7 of the paper over all nodes, users starting from zero: users [3, 2] and items [4, 2]."""
        adjacency = np.block([[np.zeros((3, 3)), PURCHASES], [PURCHASES.T, np.zeros((4, 4))]])
        root = np.sqrt(np.maximum(adjacency.sum(axis=1), 1))
        layer = np.concatenate([np.zeros((3, 2)), EMBEDDINGS])
        total = layer.copy()
        for _ in range(layers):
            layer = adjacency / np.outer(root, root) @ layer
            total += layer
        return total[:3] / (layers + 1), total[3:] / (layers + 1)

    @pytest.mark.parametrize("layers", [1, 2, 3, 4])
    def test_propagation_is_the_paper_s_formula(self, layers: int) -> None:
        model = lightgcn.SmoothedItems(purchases(), LightGcn(model="lightgcn", factors=2, layers=layers))
        model.embeddings.assign(EMBEDDINGS)
        users, items = self.dense(layers)
        found = model.smoothed()
        np.testing.assert_allclose(found.users, users, atol=1e-6)
        np.testing.assert_allclose(found.items, items, atol=1e-6)

    def test_the_gradient_goes_back_through_the_graph(self) -> None:
        model = lightgcn.SmoothedItems(purchases(), LightGcn(model="lightgcn", factors=2, layers=3))
        with tf.GradientTape() as tape:
            user = tf.reduce_sum(model.smoothed().users[1])
        root_user, root_item = np.sqrt(PURCHASES.sum(axis=1)), np.sqrt(np.maximum(PURCHASES.sum(axis=0), 1))
        graph = PURCHASES / np.outer(root_user, root_item)
        expected = graph[1] @ (np.eye(4) + graph.T @ graph) / 4
        np.testing.assert_allclose(
            tape.gradient(user, model.embeddings), np.stack([expected, expected], axis=1), atol=1e-6
        )

    def test_the_cosine_contrastive_loss_by_hand(self) -> None:
        # All embeddings alike, so that every cosine is 1.
        chosen = {"loss": "cosine_contrastive", "margin": 0.25, "negative_weight": 3, "regularization": 0}
        choice = LightGcn.model_validate(
            {"model": "lightgcn", "factors": 2, "layers": 1, "sampled_items": 50, **chosen}
        )
        model = lightgcn.SmoothedItems(purchases(), choice)
        model.embeddings.assign(np.ones((4, 2), np.float32))
        # The positive costs 1 - 1; a negative 1 - margin, unless it is the positive itself.
        tf.keras.utils.set_random_seed(1)
        sampled = tf.random.uniform([50], maxval=4, dtype=tf.int64)
        tf.keras.utils.set_random_seed(1)
        loss = float(model.loss(tf.constant([0], tf.int64), tf.constant([1], tf.int64)))
        assert loss == pytest.approx(3 * 0.75 * float(np.mean(sampled.numpy() != 1)), rel=1e-5)

    def test_the_exported_query_of_a_history_is_the_user_s_node(self, tmp_path: Path) -> None:
        users, items = PURCHASES.nonzero()
        history = timelines(users.tolist(), items.tolist(), 3)
        # At this rate training moves nothing: the embeddings stay those of the seed.
        spec = shop("lightgcn", factors=2, epochs=1, batch_size=4, sampled_items=4, learning_rate=1e-12)
        rows = np.arange(3)
        data = TrainingData(
            spec,
            Catalogue(np.arange(4).astype(object), {}, []),
            Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0)),
            3,
            tmp_path,
        )
        towers = lightgcn.fit(data)
        tf.keras.utils.set_random_seed(spec.seed)
        assert isinstance(spec.retrieval, LightGcn)
        expected = lightgcn.SmoothedItems(purchases(), spec.retrieval).smoothed()
        asked = {
            "user_id": tf.constant([3, 3, 3], tf.int64),  # unknown, all of them
            "history_item_id": tf.constant([[0, 1, 4], [1, 2, 2], [2, 0, 1]], tf.int32),
            "history_age": tf.zeros([3, 3]),
        }
        queries, items = towers.query(asked).numpy(), towers.candidate({"item_id": tf.range(4)}).numpy()
        np.testing.assert_allclose(queries[:, :-1], expected.users, atol=1e-6)
        lengths = np.linalg.norm(expected.items, axis=1, keepdims=True)
        np.testing.assert_allclose(items[:, :-1], expected.items / lengths, atol=1e-5)
        empty = towers.query({**asked, "history_item_id": tf.fill([3, 1], 4)}).numpy()
        np.testing.assert_allclose(empty[:, :-1], [queries[:, :-1].mean(axis=0)] * 3, atol=1e-6)


class TestUltraGcn:
    def model(self, **chosen: object) -> ultragcn.UltraGcnModel:
        choice = UltraGcn.model_validate(
            {"model": "ultragcn", "factors": 2, "sampled_items": 50, "negatives": 3, "regularization": 0, **chosen}
        )
        return ultragcn.UltraGcnModel(purchases(), ultragcn.co_bought(purchases(), choice.neighbours), choice)

    def test_beta_by_hand(self) -> None:
        # Degrees: users 2, 2, 3; items 2, 3, 2, 0.
        of_user, of_item = ultragcn.beta(purchases())
        np.testing.assert_allclose(of_user[0] * of_item, np.sqrt([3 / 3, 3 / 4, 3 / 3, 3 / 1]) / 2, rtol=1e-6)
        np.testing.assert_allclose(of_user[2] * of_item, np.sqrt([4 / 3, 4 / 4, 4 / 3, 4 / 1]) / 3, rtol=1e-6)

    def test_omega_by_hand(self) -> None:
        # G = [[2, 2, 1], [2, 3, 2], [1, 2, 2]] and nothing for the last item; its rows' sums are 5, 7, 5.
        found = ultragcn.co_bought(purchases(), 3)
        near, far, back = 2 / 3 * np.sqrt(5 / 7), 1 / 3, 2 / 4 * np.sqrt(7 / 5)
        expected = [[near, far, 0], [back, back, 0], [near, far, 0], [0, 0, 0]]
        np.testing.assert_allclose(found.weights, expected, rtol=1e-6)
        assert found.items[:3, :2].tolist() == [[1, 2], [0, 2], [1, 0]]

    def test_only_the_nearest_are_kept_whatever_the_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("twotower.models.family.ultragcn.BLOCK", 3)
        found = ultragcn.co_bought(purchases(), 1)
        assert found.items[[0, 2], 0].tolist() == [1, 1]
        np.testing.assert_allclose(found.weights[:, 0], ultragcn.co_bought(purchases(), 3).weights[:, 0])

    @pytest.mark.parametrize("constraint_weight", [0, 2])
    def test_the_loss_by_hand(self, constraint_weight: float) -> None:
        model = self.model(constraint_weight=constraint_weight)
        # Every score is 0, and every term log 2 times its weight.
        for table in model.tables:
            table.assign(tf.zeros_like(table))
        of_user, of_item = ultragcn.beta(purchases())
        weight, omega = np.outer(of_user, of_item), ultragcn.co_bought(purchases(), 10).weights.sum(axis=1)
        tf.keras.utils.set_random_seed(1)
        sampled = tf.random.uniform([50], maxval=4, dtype=tf.int64).numpy()
        tf.keras.utils.set_random_seed(1)
        # Users 1 and 2, who bought items 1 and 2, and all three.
        bought = weight[1, [1, 2]].sum() + weight[2, :3].sum()
        not_bought = 3 * (2 * weight[1, sampled].mean() + 3 * weight[2, sampled].mean())
        near = omega[[1, 2]].sum() + omega[:3].sum()
        expected = np.log(2) * (bought + not_bought + constraint_weight * near) / 5
        assert float(model.loss(tf.constant([1, 2], tf.int64))) == pytest.approx(expected, rel=1e-5)

    def test_a_user_is_drawn_to_the_neighbours_by_omega(self) -> None:
        model = self.model(constraint_weight=1, negatives=1, sampled_items=10_000)
        model.items.assign(tf.zeros_like(model.items))
        with tf.GradientTape() as tape:
            loss = model.loss(tf.zeros(10_000, tf.int64))
        # User 0 bought items 0 and 1: each draws item 2, which is a negative of both in a quarter of the draws.
        near = ultragcn.co_bought(purchases(), 10).weights
        found = tf.convert_to_tensor(tape.gradient(loss, model.bias))
        of_user, of_item = ultragcn.beta(purchases())
        negative = 2 * of_user[0] * of_item[2] / 4
        assert float(found[2]) == pytest.approx((negative - near[0, 1] - near[1, 1]) / 2 / 2, abs=0.01)

    def test_the_exported_query_of_a_history_is_the_user_of_training(self, tmp_path: Path) -> None:
        users, items = PURCHASES.nonzero()
        # At this rate training moves nothing: the tables stay those of the seed.
        spec = shop("ultragcn", factors=2, epochs=1, batch_size=4, sampled_items=4, learning_rate=1e-12)
        rows = np.arange(3)
        history = timelines(users.tolist(), items.tolist(), 3)
        towers = ultragcn.fit(
            TrainingData(
                spec,
                Catalogue(np.arange(4).astype(object), {}, []),
                Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0)),
                3,
                tmp_path,
            )
        )
        tf.keras.utils.set_random_seed(spec.seed)
        model = self.model(negatives=100)
        expected = PURCHASES @ model.passed_on.numpy() / np.sqrt(PURCHASES.sum(axis=1, keepdims=True))
        asked = {
            "user_id": tf.constant([3, 3, 3], tf.int64),  # unknown, all of them
            "history_item_id": tf.constant([[0, 1, 4], [1, 2, 2], [2, 0, 1]], tf.int32),
            "history_age": tf.zeros([3, 3]),
        }
        queries, found = towers.query(asked).numpy(), towers.candidate({"item_id": tf.range(4)}).numpy()
        np.testing.assert_allclose(queries[:, :-1], expected, atol=1e-6)
        np.testing.assert_allclose(found[:, :-1], model.items, atol=1e-6)
        np.testing.assert_allclose(found[:, -1], -np.log(100), rtol=1e-6)
        empty = towers.query({**asked, "history_item_id": tf.fill([3, 1], 4)}).numpy()
        np.testing.assert_allclose(empty[:, :-1], [expected.mean(axis=0)] * 3, atol=1e-6)


class TestNeighbours:
    def test_visits_by_hand(self) -> None:
        # From item 0 the first hop ends at 1 half of the time, else at 0. The second adds 1 again half of the time
        # and item 2 once in 12: by the buyers of 1, of whom every third also bought 2.
        bought = scipy.sparse.csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], np.float32))
        found = [walk(bought, 2, seed) for seed in range(20)]
        weights = np.mean([each.weights for each in found], axis=0)
        assert all(each.items[0].tolist() == [1, 2] for each in found)
        np.testing.assert_allclose(weights[0], [12 / 13, 1 / 13], atol=0.01)
        assert found[0].items[2, 0] == 1
        assert found[0].weights[3].tolist() == [0, 0]  # nobody bought it
        np.testing.assert_allclose(found[0].weights[:3].sum(axis=1), 1, atol=1e-6)

    def test_only_the_most_visited_are_kept(self) -> None:
        bought = scipy.sparse.csr_matrix(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1]], np.float32))
        found = walk(bought, 1, seed=1)
        assert found.items[0].tolist() == [1]
        assert found.weights[0].tolist() == [1]

    def test_blocks_of_walkers_change_no_shape(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("twotower.models.family.item_neighbours.BLOCK", 1)
        found = walk(purchases(), 2, seed=1)
        assert set(found.items[0]) == {1, 2}
        np.testing.assert_allclose(found.weights.sum(axis=1), [1, 1, 1, 0], atol=1e-6)


def shop(model: str, **choices: object) -> Spec:
    return Spec.model_validate(
        {
            "name": "shop",
            "interactions": {"path": "e.csv", "user": "user", "item": "item", "time": "time"},
            "split": {"test_from": "1970-04-11"},
            "retrieval": {"model": model, **choices},
        }
    )


class TestPinSage:
    def model(self) -> pinsage.PinSageModel:
        tf.keras.utils.set_random_seed(1)
        items = Catalogue(np.arange(4).astype(object), {"item_brand": np.array([0, 1, 1, 0])}, BRAND)
        choice = PinSage(model="pinsage", factors=4, layers=2, neighbours=2, min_id_count=1)
        neighbours = Neighbours(
            np.array([[1, 2], [0, 0], [1, 0], [0, 0]], np.int32),
            np.array([[0.75, 0.25], [1, 0], [0.5, 0.5], [0, 0]], np.float32),
        )
        return pinsage.PinSageModel(choice, items, np.array([2, 3, 2, 0]), neighbours)

    def test_a_sampled_neighbourhood_gives_what_layer_by_layer_does(self) -> None:
        model = self.model()
        everything = model.embed_all()
        np.testing.assert_allclose(model.embed(tf.constant([2, 0, 3])), everything[[2, 0, 3]], atol=1e-6)
        np.testing.assert_allclose(model.embed(tf.constant([1])), everything[[1]], atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(everything, axis=1), 1, atol=1e-5)

    def test_a_convolution_by_hand(self) -> None:
        layer = pinsage.Convolution(2)
        own, near = tf.constant([[1.0, 2.0]]), tf.constant([[[1.0, -1.0], [4.0, 3.0]]])
        layer.messages(near), layer(own, near, tf.ones([1, 2]))
        layer.messages.set_weights([np.eye(2), np.zeros(2)])
        layer._combine.set_weights([np.eye(4)[:, [0, 2]], np.zeros(2)])  # own first entry, neighbours' first entry
        found = layer(own, layer.messages(near), tf.constant([[0.75, 0.25]]))
        np.testing.assert_allclose(found, [np.array([1, 0.75 * 1 + 0.25 * 4]) / np.hypot(1, 1.75)], atol=1e-6)

    def test_pairs_are_near_in_a_timeline_of_one_user_and_go_both_ways(self) -> None:
        history = timelines([0] * 8 + [1] * 2, [0, 1, 2, 2, 9, 4, 5, 6, 7, 8], 2)
        found = {
            pair
            for seed in range(50)
            for pair in zip(*map(np.ndarray.tolist, pinsage.item_pairs(history, 9, seed)), strict=True)
        }
        places = {0: 0, 1: 1, 4: 5, 5: 6, 6: 7}
        assert {(7, 8), (8, 7)} <= found
        assert all(a != b and 9 not in (a, b) and (a < 7) == (b < 7) for a, b in found)
        assert (0, 4) in found  # five events later
        assert (0, 5) not in found
        assert all(abs(places[a] - places[b]) <= 5 for a, b in found if a in places and b in places)

    def test_a_shop_without_pairs_still_has_something_to_learn_from(self) -> None:
        found = pinsage.item_pairs(timelines([0, 1, 1], [0, 2, 2], 2), 3, 1)
        assert [rows.tolist() for rows in found] == [[0, 2], [0, 2]]

    def test_an_item_that_nobody_bought_gets_the_place_of_its_brand(self, tmp_path: Path) -> None:
        # 40 users buy of the first brand, 40 of the second; items 5 and 11 are new, one of each.
        random = np.random.default_rng(1)
        users = np.repeat(np.arange(80), 4)
        items = np.concatenate([random.permutation(5)[:4] + 6 * (user // 40) for user in range(80)])
        history = timelines(users.tolist(), items.tolist(), 80)
        brands, rows = np.arange(12) // 6, np.arange(80)
        towers = pinsage.fit(
            TrainingData(
                shop("pinsage", factors=8, neighbours=3, batch_size=64, epochs=8, learning_rate=0.01),
                Catalogue(np.arange(12).astype(object), {"item_brand": brands}, BRAND),
                Users(rows.astype(object), rows, {}, [], history, {}, history.latest(0)),
                80,
                tmp_path,
            )
        )
        vectors = towers.candidate({"item_id": tf.range(12)}).numpy()[:, :-1]
        cosines = vectors @ vectors.T
        for new, own, other in ((5, range(5), range(6, 11)), (11, range(6, 11), range(5))):
            assert cosines[new, list(own)].min() > cosines[new, list(other)].max() + 0.3


BRAND = [Encoding("item_brand", "index", 3)]
