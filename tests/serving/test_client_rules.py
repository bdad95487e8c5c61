"""Rules as the client sends them, and two stages behind one call."""

from typing import Any

import grpc
import numpy as np
import pytest
from test_client_calls import LISTS, QUERY, ScriptedServer

from twotower_client import InvalidRequestError, NotFoundError, Query, Range, Rules, TwoStageRecommender
from twotower_client import wire_pb2 as wire
from twotower_client.rules import rule_columns
from twotower_client.tensors import decode, encode


def test_what_a_query_leaves_out_is_no_rule() -> None:
    queries = [
        Query(rules=Rules(allowed=["a", "b"], filters={"brand": ["x"], "price": Range(above=2)}, caps={"brand": 3})),
        Query(),
        Query(rules=Rules(boosts={"brand": {"x": 2, "y": 0.5}}, diversity=0.25)),
    ]
    found = {name: column.tolist() for name, column in rule_columns(queries).items()}
    assert found.pop("allowed_item_ids") == [[b"a", b"b"], [b"", b""], [b"", b""]]
    assert found.pop("filter_brand") == [[b"x"], [b""], [b""]]
    assert found.pop("cap_brand") == [3, 0, 0]
    assert found.pop("boost_brand") == [[b"", b""], [b"", b""], [b"x", b"y"]]
    nan = float("nan")
    np.testing.assert_equal(found.pop("above_price"), [2.0, nan, nan])
    np.testing.assert_equal(found.pop("below_price"), [nan, nan, nan])
    np.testing.assert_equal(found.pop("boost_brand_factors"), [[nan, nan], [nan, nan], [2.0, 0.5]])
    np.testing.assert_equal(found.pop("diversity"), [nan, nan, 0.25])
    assert not found
    assert rule_columns([Query(), Query()]) == {}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(allowed=[]), r"allowed: expected a list of at least one non-empty string, found \[\]"),
        (Rules(filters={"brand": "x"}), r"filters\['brand'\]: expected a list .*, found 'x'"),
        (Rules(filters={"price": Range(above=float("nan"))}), r"filters\['price'\]: expected a number, found nan"),
        (Rules(caps={"brand": 0}), r"caps\['brand'\]: expected a whole number of at least 1, found 0"),
        (Rules(boosts={"brand": {"x": -1}}), r"boosts\['brand'\]: expected a number of at least 0, found -1"),
        (Rules(diversity=2), "diversity: expected a number from 0 to 1, found 2"),
    ],
)
def test_bad_rules_are_refused_before_they_are_sent(rules: Rules, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        rule_columns([Query(rules=rules)])


CANDIDATES = {**LISTS, "filter_brand": (wire.DT_STRING, (-1, -1))}
ORDER = {
    **QUERY,
    "k": (wire.DT_INT32, ()),
    "candidate_item_ids": (wire.DT_STRING, (-1, -1)),
    "cap_brand": (wire.DT_INT32, (-1,)),
}


class TwoServers:
    """A server a stage; ``moved`` is how often the second has lost the version that the first answered by."""

    def __init__(self, moved: int = 0) -> None:
        self.retrieval, self.ranking = ScriptedServer(), ScriptedServer()
        self.retrieval.name, self.ranking.name = "recommender_retrieval", "recommender_ranking"
        self.retrieval.signatures = dict.fromkeys(("candidates", "candidates_timed"), CANDIDATES)
        self.ranking.signatures = dict.fromkeys(("order", "order_timed"), ORDER)
        ids = encode(np.array([[b"a", b"b", b""]], object), wire.DT_STRING)
        times = {
            name: encode(np.array([value]), wire.DT_FLOAT) for name, value in (("ms_features", 1.0), ("ms_all", 3.0))
        }
        self.retrieval.outputs = {"item_ids": ids, **times}
        listed = {"item_ids": encode(np.array([[b"b", b"a"]], object), wire.DT_STRING)}
        listed["scores"] = encode(np.array([[0.9, 0.1]]), wire.DT_FLOAT)
        self.ranking.outputs = {**listed, **times}
        self.moved = moved

        def before(context: Any) -> None:
            if self.moved:
                self.moved -= 1
                context.abort(
                    grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(recommender_ranking, 1)"
                )

        self.ranking.before_predict = before

    def client(self) -> TwoStageRecommender:
        return TwoStageRecommender(self.retrieval.target, self.ranking.target, timeout=10)

    def stop(self) -> None:
        self.retrieval.stop()
        self.ranking.stop()


def test_each_stage_is_told_its_part_and_both_the_version() -> None:
    servers = TwoServers()
    try:
        with servers.client() as client:
            rules = Rules(filters={"brand": ["x"]}, caps={"brand": 1})
            answer = client.recommend("u", [("a", 5)], k=2, exclude=["z"], rules=rules, timings=True)
        assert [item.item_id for item in answer] == ["b", "a"]
        assert answer.timings == {"features": 2.0, "all": 6.0}
        (first,), (second,) = servers.retrieval.requests, servers.ranking.requests
        assert second.model_spec.version.value == servers.retrieval.version
        assert set(first.inputs) == set(CANDIDATES)
        assert decode(first.inputs["filter_brand"]).tolist() == [[b"x"]]
        assert decode(second.inputs["candidate_item_ids"]).tolist() == [[b"a", b"b", b""]]
        assert decode(second.inputs["cap_brand"]).tolist() == [1]
    finally:
        servers.stop()


@pytest.mark.parametrize("moved", [1, 2])
def test_a_version_that_was_unloaded_meanwhile_is_asked_for_once_more(moved: int) -> None:
    servers = TwoServers(moved)
    try:
        with servers.client() as client:
            if moved == 1:
                assert len(client.recommend("u", k=2)) == 2
            else:
                with pytest.raises(NotFoundError):
                    client.recommend("u", k=2)
        assert len(servers.retrieval.requests) == 2
    finally:
        servers.stop()
