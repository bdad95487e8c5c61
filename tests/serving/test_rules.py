"""Filters, boosts, caps and diversity against a plain reading of their definition, on the tiny shop."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recommender import REQUESTS, Composed, check_list, compose, raw_item
from tiny_shop import ITEMS, SPEC, Shop

from twotower.features.spec import Spec
from twotower.serving import filtered_search
from twotower.serving.item_ids import ItemIds
from twotower.serving.rules import Rules

N_ITEMS = len(ITEMS)
NAMES = [item["item_id"][0] for item in ITEMS]
BRAND = {item["item_id"][0]: item.get("item_brand", [b""])[0] for item in ITEMS}
PRICE = {item["item_id"][0]: item.get("item_price", [np.nan])[0] for item in ITEMS}
# What each of the requests bought in its last five events.
OWN = [[b"i1", b"i3", b"i4", b"i5", b"i6"], [b"i0"], [], [b"i7", b"i8"], [b"i8", b"i0"]]
RULES = {"filters": ["brand", "price"], "caps": ["brand"], "boosts": ["brand"], "allow_list": True, "diversity": True}
RULED = Spec.model_validate(SPEC.model_dump(by_alias=True) | {"serving": {"rules": RULES}})
INPUTS = {
    "allowed_item_ids", "filter_brand", "above_price", "below_price",
    "cap_brand", "boost_brand", "boost_brand_factors", "diversity",
}  # fmt: skip


def raw(ids: ItemIds) -> dict[str, npt.NDArray[Any]]:
    names = ids.names(tf.range(N_ITEMS)).numpy().tolist()
    brands = np.array([BRAND[name] for name in names], object)
    return {"brand": brands, "price": np.array([PRICE[name] for name in names], np.float32)}


@pytest.fixture(scope="module", params=["exact", "over-fetched"])
def ruled(request: pytest.FixtureRequest, shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Composed:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "over-fetched":
            patch.setattr(filtered_search, "EXACT_ROWS", 0)
        patch.setattr(filtered_search, "BLOCK", 3)
        folder = tmp_path_factory.mktemp("ruled")
        return compose(shop, folder, RULED, lambda ids: Rules.of(RULED, raw(ids), ids, N_ITEMS))


class Reference:
    """What a request's list is, by what the servable says of each item without any rule."""

    def __init__(self, ruled: Composed) -> None:
        everything = ruled.ask("retrieve", REQUESTS, N_ITEMS)
        self.near = [
            dict(zip(ids, scores, strict=True))
            for ids, scores in zip(everything["item_ids"].tolist(), everything["scores"].tolist(), strict=True)
        ]
        ranked = ruled.ask("rank", [{**row, "candidate_item_ids": NAMES} for row in REQUESTS])["scores"]
        self.bought = [dict(zip(NAMES, scores, strict=True)) for scores in ranked]
        vectors = ruled.ask("embed_items", [raw_item(item) for item in ITEMS])["embedding"][:, :-1]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.vectors = dict(zip(NAMES, vectors, strict=True))

    def allowed(self, rule: dict[str, Any]) -> set[bytes]:
        found = set(NAMES) - set(rule.get("exclude_item_ids", ()))
        if "allowed_item_ids" in rule:
            found &= set(rule["allowed_item_ids"])
        if "filter_brand" in rule:
            found = {name for name in found if BRAND[name] in rule["filter_brand"]}
        least, most = rule.get("above_price", -np.inf), rule.get("below_price", np.inf)
        if "above_price" in rule or "below_price" in rule:
            found = {name for name in found if least <= PRICE[name] <= most}
        return found

    def retrieved(self, user: int, rule: dict[str, Any], k: int) -> list[bytes]:
        return sorted(self.allowed(rule), key=lambda name: -self.near[user][name])[:k]

    def recommended(self, user: int, rule: dict[str, Any], k: int) -> tuple[list[tuple[bytes, float]], float]:
        """The list, and what its values may be off: a score is right to 1e-6, and relevance divides by their range."""
        wanted = self.retrieved(user, rule, max(k, SPEC.ranking.candidates))
        candidates = {*wanted, *(self.allowed(rule) & set(OWN[user]))}
        boosts = dict(zip(rule.get("boost_brand", ()), rule.get("boost_brand_factors", ()), strict=True))
        scores = {name: self.bought[user][name] * boosts.get(BRAND[name], 1.0) for name in candidates}
        strength, cap = rule.get("diversity", 0.0), rule.get("cap_brand", 0)
        low, high = min(scores.values(), default=0), max(scores.values(), default=0)
        tolerance = 1e-6 / min(high - low, 1) if strength and high > low else 1e-6
        found: list[tuple[bytes, float]] = []
        while len(found) < k:
            values = {}
            for name in candidates - {chosen for chosen, _ in found}:
                same = sum(BRAND[chosen] == BRAND[name] for chosen, _ in found)
                if cap and BRAND[name] and same >= cap:
                    continue
                near = max([0.0, *(float(self.vectors[name] @ self.vectors[chosen]) for chosen, _ in found)])
                relevance = (scores[name] - low) / (high - low) if high > low else 0.0
                values[name] = (1 - strength) * relevance - strength * near if strength else scores[name]
            if not values:
                break
            best = max(values, key=lambda name: values[name])
            found.append((best, values[best]))
        return found, tolerance


def optional(**strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=strategies)


LABELS = st.lists(st.sampled_from([b"odd", b"even", b"none such"]), min_size=1, max_size=3)
ITEM_LISTS = st.lists(st.sampled_from([*NAMES, b"gone"]), min_size=1, max_size=8)
FILTERS: dict[str, st.SearchStrategy[Any]] = {
    "exclude_item_ids": ITEM_LISTS,
    "allowed_item_ids": ITEM_LISTS,
    "filter_brand": LABELS,
    "above_price": st.sampled_from([0.0, 2.0, 3.5, 9.0]),
    "below_price": st.sampled_from([-1.0, 0.0, 4.0, 8.0]),
}
BOOSTS = st.dictionaries(st.sampled_from([b"odd", b"even", b"no"]), st.sampled_from([0.25, 0.5, 3.0]), min_size=1)


@st.composite
def rule(draw: Callable[..., Any]) -> dict[str, Any]:
    found = draw(optional(**FILTERS, cap_brand=st.integers(1, 3), diversity=st.sampled_from([0.3, 0.7])))
    if draw(st.booleans()):
        boosts = draw(BOOSTS)
        found |= {"boost_brand": list(boosts), "boost_brand_factors": list(boosts.values())}
    return dict(found)


ROWS = st.lists(st.tuples(st.integers(0, len(REQUESTS) - 1), rule()), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def reference(ruled: Composed) -> Reference:
    return Reference(ruled)


def test_the_rules_inputs(ruled: Composed) -> None:
    inputs = {name: set(ruled.signatures[name].structured_input_signature[1]) for name in ("recommend", "retrieve")}
    assert inputs["recommend"] >= INPUTS
    assert inputs["retrieve"] & INPUTS == {"allowed_item_ids", "filter_brand", "above_price", "below_price"}


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, k=st.sampled_from([1, 3, 5, N_ITEMS]))
def test_recommend_is_its_definition(ruled: Composed, reference: Reference, rows: list[Any], k: int) -> None:
    answer = ruled.ask("recommend", [{**REQUESTS[user], **rule} for user, rule in rows], k)
    check_list(answer, k)
    for place, (user, rule) in enumerate(rows):
        expected, tolerance = reference.recommended(user, rule, k)
        found = [name for name in answer["item_ids"][place].tolist() if name]
        assert set(found) <= reference.allowed(rule)
        values = answer["scores"][place, : len(found)]
        np.testing.assert_allclose(values, [value for _, value in expected], atol=tolerance)
        if np.all(np.diff(values) < -2 * tolerance):  # equal values may stand in either order
            assert found == [name for name, _ in expected]
        bought = [reference.bought[user][name] for name in found]
        np.testing.assert_allclose(answer["score_bought"][place, : len(found)], bought, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 4), optional(**FILTERS)), min_size=1, max_size=3), k=st.integers(1, 10))
def test_retrieve_is_its_definition(ruled: Composed, reference: Reference, rows: list[Any], k: int) -> None:
    answer = ruled.ask("retrieve", [{**REQUESTS[user], **rule} for user, rule in rows], k)
    check_list(answer, k)
    for place, (user, rule) in enumerate(rows):
        expected = reference.retrieved(user, rule, k)
        assert answer["item_ids"][place].tolist() == expected + [b""] * (k - len(expected))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"diversity": 1.5}, "diversity: expected numbers from 0 to 1"),
        ({"diversity": -0.1}, "diversity: expected numbers from 0 to 1"),
        ({"boost_brand": [b"odd"], "boost_brand_factors": [-1.0]}, "boost_brand_factors: expected finite numbers"),
        ({"boost_brand": [b"odd"], "boost_brand_factors": [np.inf]}, "boost_brand_factors: expected finite numbers"),
    ],
)
def test_what_is_no_rule_is_refused(ruled: Composed, rule: dict[str, Any], message: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ruled.ask("recommend", [{**REQUESTS[0], **rule}], 3)
