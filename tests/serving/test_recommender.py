"""The composed recommender, saved and loaded again: every promise of its signatures, on the tiny shop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from tiny_shop import DAY, ITEMS, SPEC, SPLIT, TASTES, USERS, Shop

from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.contract import Towers
from twotower.models.exports import RankingExport, TowersExport
from twotower.models.queries import Queries
from twotower.models.ranking_fit import build_ranker
from twotower.models.retrieval import build_towers
from twotower.models.tables import Users
from twotower.models.top_k import top_k
from twotower.models.training_events import TrainingEvents
from twotower.serving import servable
from twotower.serving.index import build_index
from twotower.serving.index.export import IndexExport
from twotower.serving.item_ids import ItemIds
from twotower.serving.recommender import Recommender
from twotower.serving.requests import RequestTransform
from twotower.serving.rules import NO_RULES, Rules
from twotower.serving.server.servable import Servable

Answer = dict[str, npt.NDArray[Any]]
N_ITEMS = len(ITEMS)
QUERY_INPUTS = {
    "user_id", "user_town", "user_age", "user_tastes", "user_face", "user_joined",
    "history_item_ids", "history_times", "time", "context_store",
}  # fmt: skip
LISTS = {"item_ids", "scores"}
TIMES = {f"ms_{name}" for name in ("features", "query_tower", "retrieval", "ranking", "rules", "all")}
TASKS = {"scores", "score_bought", "score_quantity"}


@dataclass(frozen=True)
class Composed:
    """The saved recommender, loaded, and what it was made of."""

    folder: Path
    signatures: Mapping[str, Any]
    retriever: TowerRetriever
    ranker: Any
    train: Users
    queries: Queries

    def ask(self, signature: str, rows: list[dict[str, Any]], k: int | None = None, **common: Any) -> Answer:
        """Answer a batch; what a row leaves out is empty, and shorter lists are padded as the client pads them."""
        inputs = filled(self.signatures[signature], [{**row, **common} for row in rows], k)
        return {name: value.numpy() for name, value in self.signatures[signature](**inputs).items()}


def filled(signature: Any, rows: list[dict[str, Any]], k: int | None) -> dict[str, tf.Tensor]:
    specs = dict(signature.structured_input_signature[1])
    inputs = {}
    if "k" in specs:
        del specs["k"]
        inputs["k"] = tf.constant(k, tf.int32)
    for name, spec in specs.items():
        empty: Any = {tf.string: b"", tf.int64: 0, tf.int32: 0, tf.float32: np.nan}[spec.dtype]
        values: list[Any] = [row.get(name, empty if spec.shape.rank == 1 else []) for row in rows]
        if spec.shape.rank == 2:
            width = spec.shape[1] or max(len(value) for value in values)
            values = [[*value, *[empty] * (width - len(value))] for value in values]
        inputs[name] = tf.reshape(tf.constant(values, spec.dtype), [len(rows), *([-1] if spec.shape.rank == 2 else [])])
    return inputs


def request(example: Mapping[str, Any]) -> dict[str, Any]:
    """A user's raw example as a request: the whole history, no labels, no context."""
    features = {
        name: values if name in ("user_tastes", "user_face") else values[0]
        for name, values in example.items()
        if name.startswith("user_")
    }
    history = {"history_item_ids": example["history_item_id"], "history_times": example["history_time"]}
    return {**features, **history}


REQUESTS = [request(user) for user in USERS]
U1 = REQUESTS[0]


def randomise(model: tf.Module, random: np.random.Generator, spread: float) -> None:
    for variable in model.trainable_variables:
        if "half_lives" not in variable.name:
            variable.assign(random.normal(0, spread, variable.shape))


@pytest.fixture(scope="module")
def composed(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    return compose(shop, tmp_path_factory.mktemp("recommender"), SPEC, lambda ids: NO_RULES)


def compose(shop: Shop, folder: Path, spec: Spec, rules: Callable[[ItemIds], Rules]) -> Composed:
    """Random towers and ranker over the real graph, through every SavedModel that the pipeline writes."""
    random, data = np.random.default_rng(0), shop.data()
    catalogue, train = data.catalogue(), data.users("train")
    query, candidate = build_towers(spec, catalogue, train, data.n_users, TrainingEvents.choose(spec, train, N_ITEMS))
    towers = TowersExport(
        Towers(query, candidate), data.query_encodings, data.item_encodings, spec.retrieval.history_length
    )
    queries = Queries(spec, train, N_ITEMS)
    built_ranker = build_ranker(spec, catalogue, train)
    ranking = RankingExport(built_ranker, data.query_encodings)
    for function in (towers.query, towers.candidate, ranking.score):
        function.get_concrete_function()  # creates the weights
    # The ranker multiplies features: with more its probabilities would all be 0 or 1.
    for built, spread in ((query, 0.5), (candidate, 0.5), (built_ranker.network, 0.1)):
        randomise(built, random, spread)
    tf.saved_model.save(towers, str(folder / "towers"))
    tf.saved_model.save(ranking, str(folder / "ranker"))
    retriever = TowerRetriever(str(folder / "towers"), catalogue, queries)
    tf.saved_model.save(IndexExport(build_index(retriever.items, "exact", seed=1)), str(folder / "index"))
    loaded_towers, index, ranker = (tf.saved_model.load(str(folder / name)) for name in ("towers", "index", "ranker"))
    ids = ItemIds(data.item_ids_file)
    layer = data.output.transform_features_layer()
    transform = RequestTransform(spec, layer, data.query_encodings, data.item_encodings, N_ITEMS, ids, SPLIT)
    recommender = Recommender(spec, transform, loaded_towers, index, ranker, ids, rules(ids))
    (folder / "saved").mkdir()
    servable.save(recommender, recommender.signatures(), folder / "saved", {"name": "tiny"})
    signatures = servable.load(folder / "saved").signatures
    return Composed(folder / "saved", signatures, retriever, ranker, train, queries)


def same(found: Answer, expected: Answer, *, abs_scores: float = 1e-5) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        if name == "item_ids":
            assert found[name].tolist() == value.tolist()
        else:
            np.testing.assert_allclose(found[name], value, atol=abs_scores, err_msg=name)


def check_list(answer: Answer, k: int) -> None:
    """What holds for every list: its width, no item twice, scores never increase, padding only at its end."""
    assert answer["item_ids"].shape == answer["scores"].shape
    assert answer["item_ids"].shape[1] == k
    for ids, scores in zip(answer["item_ids"].tolist(), answer["scores"].tolist(), strict=True):
        real = [item for item in ids if item]
        assert ids == real + [b""] * (k - len(real))
        assert len(set(real)) == len(real)
        assert all(a >= b for a, b in pairwise(scores))
        assert all(np.isfinite(scores[: len(real)]))
        assert all(score == -np.inf for score in scores[len(real) :])


class TestContract:
    def test_signatures(self, composed: Composed) -> None:
        expected = {
            "serving_default": (QUERY_INPUTS | {"exclude_item_ids", "k"}, LISTS | TASKS),
            "recommend": (QUERY_INPUTS | {"exclude_item_ids", "k"}, LISTS | TASKS),
            "recommend_timed": (QUERY_INPUTS | {"exclude_item_ids", "k"}, LISTS | TASKS | TIMES),
            "retrieve": (QUERY_INPUTS | {"exclude_item_ids", "k"}, LISTS),
            "rank": (QUERY_INPUTS | {"candidate_item_ids"}, TASKS),
            "similar_items": ({"item_ids", "k"}, LISTS),
            "embed_query": (QUERY_INPUTS, {"embedding"}),
            "embed_items": ({"item_id", *(f"item_{name}" for name in SPEC.item_features)}, {"embedding"}),
        }
        assert set(composed.signatures) == set(expected)
        for name, (inputs, outputs) in expected.items():
            signature = composed.signatures[name]
            assert set(signature.structured_input_signature[1]) == inputs, name
            assert set(signature.structured_outputs) == outputs, name

    def test_types_at_the_boundary(self, composed: Composed) -> None:
        specs = composed.signatures["recommend"].structured_input_signature[1]
        found = {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in specs.items()}
        assert found == {
            "user_id": ("string", [None]),
            "user_town": ("string", [None]),
            "user_age": ("float32", [None]),
            "user_tastes": ("string", [None, None]),
            "user_face": ("float32", [None, 2]),
            "user_joined": ("int64", [None]),
            "history_item_ids": ("string", [None, None]),
            "history_times": ("int64", [None, None]),
            "time": ("int64", [None]),
            "context_store": ("string", [None]),
            "exclude_item_ids": ("string", [None, None]),
            "k": ("int32", []),
        }

    def test_default_is_recommend(self, composed: Composed) -> None:
        same(composed.ask("serving_default", REQUESTS, 5), composed.ask("recommend", REQUESTS, 5), abs_scores=0)

    def test_the_first_score_is_the_probability_to_be_bought(self, composed: Composed) -> None:
        answer = composed.ask("recommend", REQUESTS, N_ITEMS)
        np.testing.assert_array_equal(answer["scores"], answer["score_bought"])
        real = answer["item_ids"] != b""
        assert ((answer["scores"][real] > 0) & (answer["scores"][real] < 1)).all()
        assert (answer["score_quantity"][real] >= 0).all()
        assert (answer["score_quantity"][~real] == -np.inf).all()

    def test_the_default_signature_shares_its_tensors(self, composed: Composed) -> None:
        served = Servable("recommender", 1, str(composed.folder))
        try:
            signatures = served.signatures
            assert signatures["serving_default"].definition == signatures["recommend"].definition
            assert signatures["serving_default"].definition != signatures["retrieve"].definition
        finally:
            served.close()

    def test_the_server_s_session_answers_the_same(self, composed: Composed) -> None:
        served = Servable("recommender", 1, str(composed.folder))
        try:
            for name in ("recommend", "retrieve", "similar_items", "rank", "embed_query", "embed_items"):
                rows = [{**row, "candidate_item_ids": [b"i1", b"bare"]} for row in REQUESTS]
                rows = [{**row, "item_ids": b"i%d" % n, "item_id": b"i%d" % n} for n, row in enumerate(rows)]
                signature = served.signatures[name]
                feeds = filled(composed.signatures[name], rows, 4)
                inputs = {key: value.numpy() for key, value in feeds.items()}
                found = served.run(signature, inputs, signature.aliases, None)
                same(dict(zip(signature.aliases, found, strict=True)), composed.ask(name, rows, 4))
        finally:
            served.close()


class TestLists:
    @pytest.mark.parametrize("signature", ["recommend", "retrieve"])
    @pytest.mark.parametrize("k", [1, 3, N_ITEMS])
    def test_are_well_formed(self, composed: Composed, signature: str, k: int) -> None:
        check_list(composed.ask(signature, REQUESTS, k), k)

    @pytest.mark.parametrize("k", [1, 3, N_ITEMS])
    def test_similar_are_well_formed(self, composed: Composed, k: int) -> None:
        check_list(composed.ask("similar_items", [{"item_ids": item["item_id"][0]} for item in ITEMS], k), k)

    @pytest.mark.parametrize("signature", ["recommend", "retrieve"])
    def test_with_k_of_the_whole_catalogue_everything_comes_back(self, composed: Composed, signature: str) -> None:
        for ids in composed.ask(signature, REQUESTS, N_ITEMS)["item_ids"]:
            assert sorted(ids) == sorted(item["item_id"][0] for item in ITEMS)

    @pytest.mark.parametrize("signature", ["recommend", "retrieve", "similar_items"])
    @pytest.mark.parametrize("k", [-1, 0, N_ITEMS + 1, 2**31 - 1])
    def test_k_outside_the_catalogue_is_refused(self, composed: Composed, signature: str, k: int) -> None:
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"k: expected 1 to {N_ITEMS} .*, found\] \[{k}\]"):
            composed.ask(signature, [{**U1, "item_ids": b"i1"}], k)

    @pytest.mark.parametrize("signature", ["recommend", "retrieve"])
    def test_excluded_items_never_come_back(self, composed: Composed, signature: str) -> None:
        before = composed.ask(signature, [U1], 4)
        first = before["item_ids"][0, :2].tolist()
        after = composed.ask(signature, [U1], 4, exclude_item_ids=[first[1], first[0], first[0], b"nothing"])
        check_list(after, 4)
        assert not set(first) & set(after["item_ids"][0].tolist())
        assert after["item_ids"][0, :2].tolist() == before["item_ids"][0, 2:].tolist()

    @pytest.mark.parametrize("signature", ["recommend", "retrieve"])
    def test_when_most_is_excluded_the_list_is_shorter(self, composed: Composed, signature: str) -> None:
        excluded = [item["item_id"][0] for item in ITEMS[:-2]]
        answer = composed.ask(signature, REQUESTS, 5, exclude_item_ids=excluded)
        check_list(answer, 5)
        for ids in answer["item_ids"]:
            assert sorted(ids) == [b"", b"", b"", b"bare", b"i8"]

    @pytest.mark.parametrize("signature", ["recommend", "retrieve"])
    @pytest.mark.parametrize("row", [0, 2], ids=["with a history", "without"])
    def test_when_more_than_everything_is_excluded_the_list_is_empty(
        self, composed: Composed, signature: str, row: int
    ) -> None:
        excluded = [*(item["item_id"][0] for item in ITEMS), b"more", b"i1", b"i2"]
        answer = composed.ask(signature, [REQUESTS[row]], 5, exclude_item_ids=excluded)
        check_list(answer, 5)
        assert answer["item_ids"].tolist() == [[b""] * 5]

    def test_retrieve_is_what_the_towers_say_offline(self, composed: Composed) -> None:
        users, moment = np.arange(len(USERS)), np.full(len(USERS), SPLIT)
        vectors = composed.retriever.embed(users, composed.train.history.offsets[1:], moment)
        scores = vectors @ composed.retriever.items.T
        best = top_k(scores, 6)
        answer = composed.ask("retrieve", REQUESTS, 6, time=SPLIT)
        ids = shop_ids(composed)
        assert answer["item_ids"].tolist() == ids[best].tolist()
        np.testing.assert_allclose(answer["scores"], np.take_along_axis(scores, best, axis=1), atol=1e-5)

    def test_recommend_ranks_retrieved_and_own_items_as_offline(self, composed: Composed) -> None:
        users, moment = np.arange(len(USERS)), np.full(len(USERS), SPLIT)
        history, ids = composed.train.history, shop_ids(composed)
        features = composed.queries.features(
            tf.constant(users), tf.constant(history.offsets[1:]), tf.constant(moment), SPEC.ranking.history_length
        )
        retrieved = composed.retriever.best(SPEC.ranking.candidates)(users, history.offsets[1:], moment)
        answer = composed.ask("recommend", REQUESTS, SPEC.ranking.candidates, time=SPLIT)
        check_list(answer, SPEC.ranking.candidates)
        every = np.tile(np.arange(N_ITEMS, dtype=np.int32), (len(USERS), 1))
        scores = composed.ranker.score(features, tf.constant(every))["bought"].numpy()
        for user in users:
            own = history.items[history.offsets[user] : history.offsets[user + 1]][-SPEC.ranking.history_length :]
            candidates = np.setdiff1d(np.union1d(own, retrieved[user]), [N_ITEMS])
            best = candidates[np.argsort(-scores[user, candidates], kind="stable")][: SPEC.ranking.candidates]
            assert answer["item_ids"][user].tolist() == ids[best].tolist()
            np.testing.assert_allclose(answer["scores"][user], scores[user, best], atol=1e-5)

    def test_own_items_are_candidates_even_if_retrieval_forgets_them(self, composed: Composed) -> None:
        # i1 to i6 are u1's; retrieval returns 4 of 10 items, and the list of 8 holds what it can of both.
        own = {b"i1", b"i3", b"i4", b"i5", b"i6"}
        answer = composed.ask("recommend", [U1], N_ITEMS)
        assert own <= set(answer["item_ids"][0].tolist())


def shop_ids(composed: Composed) -> npt.NDArray[np.object_]:
    """The catalogue's ids in vocabulary order."""
    embedded = composed.ask("embed_items", [raw_item(item) for item in ITEMS])["embedding"]
    rows = [int(np.abs(composed.retriever.items - vector).sum(axis=1).argmin()) for vector in embedded]
    assert sorted(rows) == list(range(N_ITEMS))
    ids = np.empty(N_ITEMS, dtype=object)
    ids[rows] = [item["item_id"][0] for item in ITEMS]
    return ids


def raw_item(item: Mapping[str, Any]) -> dict[str, Any]:
    lists = ("item_image", "item_tags")
    return {name: values if name in lists else values[0] for name, values in item.items()}


class TestQueries:
    @pytest.mark.parametrize("signature", ["recommend", "retrieve", "embed_query", "rank"])
    def test_a_batch_answers_as_its_rows_alone(self, composed: Composed, signature: str) -> None:
        rows = [{**row, "candidate_item_ids": [b"i3", b"bare"]} for row in REQUESTS]
        rows[1]["exclude_item_ids"] = [b"i0", b"i1"]
        together = composed.ask(signature, rows, 6)
        for number, row in enumerate(rows):
            alone = composed.ask(signature, [row], 6)
            same({name: value[number : number + 1] for name, value in together.items()}, alone)

    @pytest.mark.parametrize("signature", ["recommend", "retrieve", "rank", "embed_query"])
    def test_an_empty_batch(self, composed: Composed, signature: str) -> None:
        specs = composed.signatures[signature].structured_input_signature[1]
        inputs = {
            name: tf.zeros([0, *(size or 0 for size in spec.shape[1:])], spec.dtype) for name, spec in specs.items()
        }
        if "k" in inputs:
            inputs["k"] = tf.constant(3)
        for value in composed.signatures[signature](**inputs).values():
            assert value.shape[0] == 0

    def test_the_order_of_the_history_does_not_matter(self, composed: Composed) -> None:
        random = np.random.default_rng(5)
        expected = composed.ask("recommend", [U1], N_ITEMS), composed.ask("embed_query", [U1])
        for _ in range(8):
            order = random.permutation(len(U1["history_times"]))
            row = U1 | {name: [U1[name][place] for place in order] for name in ("history_item_ids", "history_times")}
            same(composed.ask("recommend", [row], N_ITEMS), expected[0])
            same(composed.ask("embed_query", [row]), expected[1])

    def test_padding_of_the_history_does_not_matter(self, composed: Composed) -> None:
        padded = U1 | {
            "history_item_ids": [b"", *U1["history_item_ids"], b"", b""],
            "history_times": [0, *U1["history_times"], 0, 0],
        }
        for signature in ("recommend", "embed_query"):
            same(composed.ask(signature, [padded], 5), composed.ask(signature, [U1], 5))

    def test_unknown_items_of_the_history_do_not_matter(self, composed: Composed) -> None:
        times = [SPLIT - 5, SPLIT - 60, *U1["history_times"]]
        row = U1 | {"history_item_ids": [b"gone", b"\xff", *U1["history_item_ids"]], "history_times": times}
        for signature in ("recommend", "embed_query"):
            same(composed.ask(signature, [row], 5), composed.ask(signature, [U1], 5))

    def test_events_before_1970_are_events(self, composed: Composed) -> None:
        old = {"history_item_ids": [b"i1"], "history_times": [-400], "time": DAY}
        padded = old | {"history_item_ids": [b"", b"", b"", b"i1"], "history_times": [0, 0, 0, -400]}
        found = composed.ask("embed_query", [padded])
        same(found, composed.ask("embed_query", [old]))
        assert not np.allclose(found["embedding"], composed.ask("embed_query", [{"time": DAY}])["embedding"])

    def test_events_at_or_after_the_request_are_ignored(self, composed: Composed) -> None:
        moment = SPLIT - 5 * DAY
        past = [n for n, time in enumerate(U1["history_times"]) if time < moment]
        assert len(past) == 6
        row = U1 | {"time": moment}
        row = row | {name: [U1[name][place] for place in past] for name in ("history_item_ids", "history_times")}
        future = row | {
            "history_item_ids": [b"i0", *row["history_item_ids"], b"i7", b"i8"],
            "history_times": [moment, *row["history_times"], moment + 1, moment + 99 * DAY],
        }
        for signature in ("recommend", "embed_query"):
            same(composed.ask(signature, [future], 5), composed.ask(signature, [row], 5))
        included = future | {"time": moment + 1}
        assert not np.allclose(
            composed.ask("embed_query", [included])["embedding"], composed.ask("embed_query", [row])["embedding"]
        )

    def test_without_a_time_now_is_the_end_of_the_training_data(self, composed: Composed) -> None:
        for signature in ("recommend", "embed_query"):
            same(composed.ask(signature, [U1], 5), composed.ask(signature, [U1], 5, time=SPLIT))
        later = composed.ask("embed_query", [U1], time=SPLIT + 5 * 3_600)["embedding"]
        assert not np.allclose(later, composed.ask("embed_query", [U1])["embedding"])

    def test_without_a_time_a_newer_history_counts_to_its_last_event(self, composed: Composed) -> None:
        latest = SPLIT + 50 * DAY
        row = U1 | {
            "history_item_ids": [*U1["history_item_ids"], b"i8"],
            "history_times": [*U1["history_times"], latest],
        }
        for signature in ("recommend", "embed_query"):
            same(composed.ask(signature, [row], 5), composed.ask(signature, [row], 5, time=latest + 1))

    def test_an_empty_history_is_valid(self, composed: Composed) -> None:
        check_list(composed.ask("recommend", [REQUESTS[2]], 5), 5)
        assert np.isfinite(composed.ask("embed_query", [{}])["embedding"]).all()

    def test_an_unknown_user_has_a_list_from_features_and_history(self, composed: Composed) -> None:
        unknown = {name: value for name, value in U1.items() if name != "user_id"} | {"user_id": b"nobody"}
        base = composed.ask("embed_query", [unknown])["embedding"]
        check_list(composed.ask("recommend", [unknown], 5), 5)
        changes: list[dict[str, Any]] = [
            {"user_town": b"Bonn"},
            {"history_item_ids": [], "history_times": []},
            {"user_face": [9.0, 9.0]},
        ]
        for change in changes:
            assert not np.allclose(base, composed.ask("embed_query", [unknown | change])["embedding"])

    def test_no_user_id_is_an_unknown_user_and_not_the_first_of_the_vocabulary(self, composed: Composed) -> None:
        vectors = composed.ask(
            "embed_query", [{}, {"user_id": b"nobody"}, *({"user_id": f"u{n}"} for n in (1, 2, 4, 5))]
        )
        nameless, nobody, *users = vectors["embedding"]
        np.testing.assert_array_equal(nameless, nobody)
        assert all(not np.allclose(nameless, vector) for vector in users)

    @pytest.mark.parametrize(
        "change",
        [
            {"user_town": b"Bonn"},
            {"user_age": 40.0},
            {"user_tastes": [b"hot"]},
            {"user_face": [0.5, 1.0]},
            {"user_joined": SPLIT - 399 * DAY},
            {"context_store": b"s1"},
            {"time": SPLIT + 3_600},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_every_input_is_used(self, composed: Composed, change: dict[str, Any]) -> None:
        assert not np.allclose(
            composed.ask("embed_query", [U1 | change])["embedding"], composed.ask("embed_query", [U1])["embedding"]
        )
        ranked = {"candidate_item_ids": [b"i1", b"i7"]}
        before, after = (composed.ask("rank", [row | ranked])["scores"] for row in (U1, U1 | change))
        assert not np.allclose(before, after, rtol=0, atol=1e-7)

    def test_a_sequence_is_cut_as_ingest_cuts_it(self, composed: Composed) -> None:
        longer = U1 | {"user_tastes": [*TASTES, b"hot", b"hot"]}
        same(composed.ask("embed_query", [longer]), composed.ask("embed_query", [U1]))


class TestRank:
    def test_agrees_with_recommend(self, composed: Composed) -> None:
        listed = composed.ask("recommend", REQUESTS, N_ITEMS)
        rows = [
            row | {"candidate_item_ids": ids} for row, ids in zip(REQUESTS, listed["item_ids"].tolist(), strict=True)
        ]
        ranked = composed.ask("rank", rows)
        for name in TASKS:
            np.testing.assert_allclose(ranked[name], listed[name], atol=1e-5, err_msg=name)

    def test_answers_in_the_order_asked_and_pads_with_minus_infinity(self, composed: Composed) -> None:
        ids = [b"i3", b"", b"bare", b"i3", b"unheard of"]
        ranked = composed.ask("rank", [U1 | {"candidate_item_ids": ids}])
        for name in TASKS:
            (scores,) = ranked[name]
            assert np.isfinite(scores[[0, 2, 3, 4]]).all()
            assert scores[1] == -np.inf
            assert scores[0] == scores[3]
            alone = composed.ask("rank", [U1 | {"candidate_item_ids": [b"bare"]}])[name]
            np.testing.assert_allclose(alone[0, 0], scores[2], atol=1e-6)

    def test_no_candidates(self, composed: Composed) -> None:
        for row in (U1, REQUESTS[2]):
            assert {value.shape for value in composed.ask("rank", [row]).values()} == {(1, 0)}


class TestItems:
    def test_embeddings_of_the_catalogue_are_those_of_the_index(self, composed: Composed) -> None:
        embedded = composed.ask("embed_items", [raw_item(item) for item in ITEMS])["embedding"]
        ids = shop_ids(composed)
        for item, vector in zip(ITEMS, embedded, strict=True):
            row = ids.tolist().index(item["item_id"][0])
            np.testing.assert_allclose(vector, composed.retriever.items[row], atol=1e-6)

    def test_a_new_item_is_embedded_from_its_features(self, composed: Composed) -> None:
        new = raw_item(ITEMS[3]) | {"item_id": b"brand new"}
        nameless = {name: value for name, value in new.items() if name != "item_id"}
        dear = new | {"item_price": 8.0}
        first, second, third = composed.ask("embed_items", [new, nameless, dear])["embedding"]
        np.testing.assert_array_equal(first, second)
        assert not np.allclose(first, third)

    def test_similar_items_are_the_nearest_by_cosine_without_the_item_itself(self, composed: Composed) -> None:
        # The last dimension is the prior: it says how popular an item is, not what it is like.
        vectors = composed.retriever.items[:, :-1]
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        ids, cosines = shop_ids(composed), vectors @ vectors.T
        answer = composed.ask("similar_items", [{"item_ids": name} for name in ids], N_ITEMS - 1)
        check_list(answer, N_ITEMS - 1)
        for row in range(N_ITEMS):
            others = np.delete(np.arange(N_ITEMS), row)
            best = others[np.argsort(-cosines[row, others])]
            assert answer["item_ids"][row].tolist() == ids[best].tolist()
            np.testing.assert_allclose(answer["scores"][row], cosines[row, best], atol=1e-5)

    def test_an_unknown_item_is_like_nothing(self, composed: Composed) -> None:
        answer = composed.ask("similar_items", [{"item_ids": b"gone"}, {"item_ids": b"i1"}, {"item_ids": b""}], 3)
        check_list(answer, 3)
        assert answer["item_ids"][[0, 2]].tolist() == [[b""] * 3] * 2
        assert b"" not in answer["item_ids"][1].tolist()
        same(
            {name: value[1:2] for name, value in answer.items()},
            composed.ask("similar_items", [{"item_ids": b"i1"}], 3),
        )


def test_warm_up_and_card_describe_every_signature(composed: Composed) -> None:
    card = servable.card(composed.folder)
    assert card["name"] == "tiny"
    described = card["signatures"]
    assert isinstance(described, dict)
    assert set(described) == set(composed.signatures) - {"serving_default"}
    records = list(tf.data.TFRecordDataset(str(composed.folder / servable.WARM_UP)))
    assert len(records) == len(composed.signatures)
