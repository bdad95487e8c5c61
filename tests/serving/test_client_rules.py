"""Rules as the client sends them, and two stages behind one call."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest
from in_loop import Connect, InLoop
from scripted_server import LISTS, QUERY, ScriptedServer
from wire_arrays import array, decode, encode

from twotower_client import (
    AsyncTwoStageRecommender,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    Query,
    Range,
    Recommender,
    Rules,
    ServerError,
    TwoStageRecommender,
)
from twotower_client import wire_pb2 as wire
from twotower_client.rules import rule_columns


def test_what_a_query_leaves_out_is_no_rule() -> None:
    queries = [
        Query(rules=Rules(allowed=["a", "b"], filters={"brand": ["x"], "price": Range(above=2)}, caps={"brand": 3})),
        Query(),
        Query(rules=Rules(boosts={"brand": {"x": 2, "y": 0.5}}, diversity=0.25)),
    ]
    found = {name: array(column).tolist() for name, column in rule_columns(queries).items()}
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
        (Rules(filters={"price": Range(below=True)}), r"filters\['price'\]: expected a number, found True"),
        (Rules(caps={"brand": 0}), r"caps\['brand'\]: expected a whole number of at least 1, found 0"),
        (Rules(boosts={"brand": {"x": -1}}), r"boosts\['brand'\]: expected a number of at least 0, found -1"),
        (Rules(diversity=2), "diversity: expected a number from 0 to 1, found 2"),
    ],
)
def test_bad_rules_are_refused_before_they_are_sent(rules: Rules, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        rule_columns([Query(rules=rules)])


def test_rules_take_numbers_of_numpy() -> None:
    above, below, most = np.array([0.5], np.float32), np.array([2]), np.array([3], np.int32)
    rules = Rules(filters={"price": Range(above[0], below[0])}, caps={"brand": most[0]})
    found = {name: column.values for name, column in rule_columns([Query(rules=rules)]).items()}
    assert found == {"above_price": [0.5], "below_price": [2.0], "cap_brand": [3]}


TIMES = {name: encode(np.array([value]), wire.DT_FLOAT) for name, value in (("ms_features", 1.0), ("ms_all", 3.0))}
LIST = {
    "item_ids": encode(np.array([[b"b", b"a"]], object), wire.DT_STRING),
    "scores": encode(np.array([[0.9, 0.1]]), wire.DT_FLOAT),
}


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """A client of one stage."""
    return Recommender if request.param == "blocking" else InLoop.connect


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    ruled = {**CANDIDATES, "above_price": (wire.DT_FLOAT, (-1,)), "below_price": (wire.DT_FLOAT, (-1,))}
    scripted.signatures = {"recommend": ruled, "recommend_timed": ruled, "retrieve": ruled}
    yield scripted
    scripted.stop()


def test_rules_are_sent_and_times_are_read(connect: Connect, server: ScriptedServer) -> None:
    server.outputs = {**LIST, **TIMES}
    rules = Rules(filters={"brand": ["x"]})
    with connect(server.target, "m") as client:
        assert client.recommend("u", rules=rules, timings=True).timings == {"features": 1.0, "all": 3.0}
        client.retrieve("u", rules=rules)
        with pytest.raises(InvalidRequestError, match="'recommend' takes no 'cap_brand'"):
            client.recommend("u", rules=Rules(caps={"brand": 1}))
        with pytest.raises(InvalidRequestError, match="above_price: a number does not fit in float"):
            client.recommend("u", rules=Rules(filters={"price": Range(above=1e39)}))
    assert [request.model_spec.signature_name for request in server.requests] == ["recommend_timed", "retrieve"]
    for request in server.requests:
        assert decode(request.inputs["filter_brand"]).tolist() == [[b"x"]]
        assert np.isnan(decode(request.inputs["above_price"])).tolist() == [True]


def test_times_of_another_batch_break_the_contract(connect: Connect, server: ScriptedServer) -> None:
    server.outputs = {**LIST, "ms_all": encode(np.zeros(2), wire.DT_FLOAT)}
    with connect(server.target, "m") as client, pytest.raises(ServerError, match=r"'ms_all' has shape \(2,\)"):
        client.recommend("u", timings=True)


CANDIDATES = {**LISTS, "filter_brand": (wire.DT_STRING, (-1, -1))}
ORDER = {
    **QUERY,
    "k": (wire.DT_INT32, ()),
    "candidate_item_ids": (wire.DT_STRING, (-1, -1)),
    "cap_brand": (wire.DT_INT32, (-1,)),
}


class TwoServers:
    """A server a stage; ``moved`` is how often the second will have lost the version that the first answered by."""

    def __init__(self) -> None:
        self.retrieval, self.ranking = ScriptedServer(), ScriptedServer()
        self.retrieval.name, self.ranking.name = "recommender_retrieval", "recommender_ranking"
        self.retrieval.signatures = dict.fromkeys(("candidates", "candidates_timed"), CANDIDATES)
        rank = {name: spec for name, spec in ORDER.items() if name not in {"k", "cap_brand"}}
        self.ranking.signatures = {**dict.fromkeys(("order", "order_timed"), ORDER), "rank": rank}
        ids = encode(np.array([[b"a", b"b", b""]], object), wire.DT_STRING)
        self.retrieval.outputs = {"item_ids": ids, **TIMES}
        self.ranking.outputs = {**LIST, **TIMES}
        self.moved = 0

        def before(context: Any) -> None:
            if self.moved:
                self.moved -= 1
                context.abort(
                    grpc.StatusCode.NOT_FOUND, "Servable not found for request: Specific(recommender_ranking, 1)"
                )

        self.ranking.before_predict = before

    def stop(self) -> None:
        self.retrieval.stop()
        self.ranking.stop()


@pytest.fixture
def servers() -> Iterator[TwoServers]:
    scripted = TwoServers()
    yield scripted
    scripted.stop()


Both = Callable[..., Recommender]


@pytest.fixture(params=[TwoStageRecommender, AsyncTwoStageRecommender])
def both(request: pytest.FixtureRequest, servers: TwoServers) -> Both:
    """Makes a client of both stages."""
    connect: Both = (
        TwoStageRecommender
        if request.param is TwoStageRecommender
        else partial(InLoop.connect, make=AsyncTwoStageRecommender)
    )
    return partial(connect, servers.retrieval.target, servers.ranking.target, timeout=10)


def test_each_stage_is_told_its_part_and_both_the_version(both: Both, servers: TwoServers) -> None:
    servers.retrieval.version, servers.ranking.version = 3, 4
    with both() as client:
        rules = Rules(filters={"brand": ["x"]}, caps={"brand": 1})
        answer = client.recommend("u", [("a", 5)], k=2, exclude=["z"], rules=rules, timings=True)
    assert [item.item_id for item in answer] == ["b", "a"]
    assert answer.timings == {"features": 2.0, "all": 6.0}
    assert answer.model_version == 3
    (first,), (second,) = servers.retrieval.requests, servers.ranking.requests
    assert second.model_spec.version.value == 3
    assert set(first.inputs) == set(CANDIDATES)
    assert decode(first.inputs["filter_brand"]).tolist() == [[b"x"]]
    assert decode(second.inputs["candidate_item_ids"]).tolist() == [[b"a", b"b", b""]]
    assert decode(second.inputs["cap_brand"]).tolist() == [1]


def test_a_version_that_was_unloaded_meanwhile_is_asked_for_once_more(both: Both, servers: TwoServers) -> None:
    with both() as client:
        servers.moved = 1
        assert len(client.recommend("u", k=2)) == 2
        assert len(servers.retrieval.requests) == 2
        servers.moved = 2
        with pytest.raises(NotFoundError):
            client.recommend("u", k=2)
        assert len(servers.retrieval.requests) == 4


def test_a_label_chooses_in_the_first_stage_and_its_version_in_the_second(both: Both, servers: TwoServers) -> None:
    servers.retrieval.labels = {"stable": 2}
    with both(label="stable") as client:
        assert client.recommend("u", k=2).model_version == 2
    assert servers.retrieval.requests[0].model_spec.version_label == "stable"
    assert servers.ranking.requests[0].model_spec.version.value == 2


def test_a_large_batch_goes_as_several_pairs_of_requests(both: Both, servers: TwoServers) -> None:
    with both(batch_size=1) as client:
        lists = client.recommend_many([Query("u"), Query("v"), Query("w")], k=2)
    assert [len(answer) for answer in lists] == [2, 2, 2]
    assert len(servers.retrieval.requests) == len(servers.ranking.requests) == 3


def test_candidates_are_ranked_by_the_second_stage_alone(both: Both, servers: TwoServers) -> None:
    with both() as client:
        assert [item.item_id for item in client.rank("u", candidates=["a", "b"])] == ["a", "b"]
    assert [request.model_spec.signature_name for request in servers.ranking.requests] == ["rank"]
    assert not servers.retrieval.requests


def test_a_version_is_available_where_both_stages_have_it(both: Both, servers: TwoServers) -> None:
    available, loading = wire.ModelVersionStatus.AVAILABLE, wire.ModelVersionStatus.LOADING
    servers.retrieval.states = [(1, wire.ModelVersionStatus.UNLOADING), (2, available), (3, available)]
    servers.ranking.states = [(1, available), (2, loading)]
    with both() as client:
        states = [(status.version, status.state) for status in client.status()]
        assert states == [(1, "UNLOADING"), (2, "LOADING"), (3, "UNKNOWN")]
        with pytest.raises(DeadlineExceededError, match="seen last: version 1 UNLOADING, version 2 LOADING"):
            client.wait_until_ready(0.3)
        servers.ranking.states = [(2, available)]
        assert len(client.wait_until_ready(5)) == 3
