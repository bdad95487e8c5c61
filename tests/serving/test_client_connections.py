"""TLS, tokens, several servers, Unix sockets, hedged calls and large batches, of both clients."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from certificates import Authority, Pair
from in_loop import Connect, InLoop
from scripted_server import ScriptedServer

from twotower_client import (
    AsyncRecommender,
    AuthenticationError,
    InvalidRequestError,
    Query,
    Recommender,
    UnavailableError,
    tls_credentials,
)
from twotower_client.hedging import HedgeBudget


@pytest.fixture(params=[Recommender, AsyncRecommender])
def connect(request: pytest.FixtureRequest) -> Connect:
    return Recommender if request.param is Recommender else InLoop.connect


@pytest.fixture
def servers() -> Iterator[list[ScriptedServer]]:
    """Three of them at three addresses."""
    scripted = [ScriptedServer() for _ in range(3)]
    yield scripted
    for one in scripted:
        one.stop()


@pytest.fixture
def server(servers: list[ScriptedServer]) -> ScriptedServer:
    return servers[0]


def everywhere(servers: list[ScriptedServer]) -> str:
    return "ipv4:" + ",".join(f"127.0.0.1:{server.port}" for server in servers)


# --- credentials -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def host(authority: Authority) -> Pair:
    return authority.issue("localhost")


def test_tls_from_a_file(tmp_path: Path, authority: Authority, host: Pair, connect: Connect) -> None:
    server = ScriptedServer(credentials=grpc.ssl_server_credentials([(host.key, host.certificate)]))
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    try:
        with connect(server.target, "m", 10.0, tls_credentials(tmp_path / "ca.pem"), token="s3cret") as client:
            assert client.recommend("7").items
            assert server.headers[0]["authorization"] == "Bearer s3cret"
        wrong = tls_credentials(Authority().certificate)
        with connect(server.target, "m", 2.0, wrong) as stranger, pytest.raises(UnavailableError):
            stranger.recommend("7")
        with connect(server.target, "m", 2.0) as plain, pytest.raises(UnavailableError):
            plain.recommend("7")
    finally:
        server.stop()


def test_mutual_tls_from_bytes(authority: Authority, host: Pair, connect: Connect) -> None:
    credentials = grpc.ssl_server_credentials([(host.key, host.certificate)], authority.certificate, True)
    server = ScriptedServer(credentials=credentials)
    mine = authority.issue("client")
    try:
        known = tls_credentials(authority.certificate, mine.certificate, mine.key)
        with connect(server.target, "m", 10.0, known) as client:
            assert client.recommend("7").items
        nobody = tls_credentials(authority.certificate)
        with connect(server.target, "m", 2.0, nobody) as unknown, pytest.raises(UnavailableError):
            unknown.recommend("7")
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"certificate": b"x"}, "certificate, private_key: expected both for mutual TLS, or neither; found one"),
        ({"root_certificates": "absent.pem"}, "root_certificates: cannot read 'absent.pem': No such file"),
        ({"root_certificates": b"no"}, r"root_certificates: expected PEM \(-----BEGIN ...\), the bytes hold none"),
    ],
)
def test_bad_certificates_are_refused_by_name(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        tls_credentials(**arguments)


def test_a_token_goes_with_every_call_and_may_change(server: ScriptedServer, connect: Connect) -> None:
    tokens = iter(["first", "second", "third"])
    with connect(server.target, "m", token=lambda: next(tokens), insecure_token=True) as client:
        client.recommend("7")  # "first" went to GetModelMetadata
        client.recommend("7")
    assert [headers["authorization"] for headers in server.headers] == ["Bearer second", "Bearer third"]


def test_a_server_that_wants_another_token(server: ScriptedServer, connect: Connect) -> None:
    def check(context: grpc.ServicerContext) -> None:
        if dict(context.invocation_metadata())["authorization"] != "Bearer right":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")

    server.before_predict = check
    with connect(server.target, "m", token="right", insecure_token=True) as client:
        assert client.recommend("7").items
    refused = pytest.raises(AuthenticationError, match="wrong token")
    with connect(server.target, "m", token="wrong", insecure_token=True) as client, refused:
        client.recommend("7")


def test_a_token_is_not_sent_in_the_clear_by_accident(connect: Connect) -> None:
    with pytest.raises(InvalidRequestError, match="insecure_token=True sends it without TLS"):
        connect("localhost:1", token="s3cret")
    with pytest.raises(InvalidRequestError, match="token: expected printable ASCII without spaces") as caught:
        connect("localhost:1", token="s3cret\n", insecure_token=True)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timeout": 0}, "timeout: expected more than 0 seconds, found 0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, found 0"),
        ({"hedge_after": 0}, "hedge_after: expected more than 0 seconds, found 0"),
        ({"version": 1, "label": "stable"}, "version, label: expected one of them"),
        ({"label": ""}, "label: expected a version label such as 'stable', found ''"),
        ({"version": "1"}, "version: expected a whole number, found '1'"),
    ],
)
def test_arguments_that_cannot_be_meant(arguments: dict[str, Any], message: str, connect: Connect) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        connect("localhost:1", **arguments)


# --- where calls go --------------------------------------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path, connect: Connect) -> None:
    address = f"unix:{tmp_path / 'model.sock'}"
    server = ScriptedServer(address=address)
    try:
        with connect(address, "m") as client:
            client.wait_until_ready(10)
            assert client.recommend("7").items[0].item_id == "for-7"
    finally:
        server.stop()


def test_calls_go_round_several_servers_and_past_one_that_is_gone(
    servers: list[ScriptedServer], connect: Connect
) -> None:
    with connect(everywhere(servers), "m", 5.0) as client:
        for _ in range(30):  # until all three are connected, the calls go to those that are
            client.recommend("7")
        before = [server.attempts["Predict"] for server in servers]
        for _ in range(30):
            client.recommend("7")
        assert [server.attempts["Predict"] - number for server, number in zip(servers, before, strict=True)] == [10] * 3
        servers[0].stop()
        for _ in range(10):
            assert client.recommend("7").items


# --- hedging ---------------------------------------------------------------------------------------------------------


class OnceSlow:
    """Holds the first request back until the test ends, and tells whether it was cancelled."""

    def __init__(self, server: ScriptedServer) -> None:
        self.cancelled = threading.Event()
        self.released = threading.Event()
        self._requests = 0
        server.before_predict = self

    def __call__(self, context: grpc.ServicerContext) -> None:
        self._requests += 1
        if self._requests == 1:
            context.add_callback(self.cancelled.set)
            self.released.wait(10)


def test_a_slow_call_is_sent_again_and_the_first_answer_wins(server: ScriptedServer, connect: Connect) -> None:
    slow = OnceSlow(server)
    with connect(server.target, "m", timeout=8.0, hedge_after=0.1) as client:
        start = time.monotonic()
        assert client.recommend("7").items[0].item_id == "for-7"
        assert time.monotonic() - start < 4
        assert slow.cancelled.wait(4)
        assert server.attempts["Predict"] == 2
        slow.released.set()
        client.recommend("7")
    assert server.attempts["Predict"] == 3


def test_a_fast_answer_and_a_fast_error_are_not_sent_again(server: ScriptedServer, connect: Connect) -> None:
    with connect(server.target, "m", hedge_after=2.0, timeout=5.0) as client:
        client.recommend("7")
        server.before_predict = lambda context: context.abort(grpc.StatusCode.INTERNAL, "broken")
        with pytest.raises(Exception, match="broken"):
            client.recommend("7")
    assert server.attempts["Predict"] == 2


def test_a_second_call_that_fails_leaves_the_first_its_time(server: ScriptedServer, connect: Connect) -> None:
    def first_late_second_broken(context: grpc.ServicerContext) -> None:
        if server.attempts["Predict"] == 1:
            time.sleep(0.6)
        else:
            context.abort(grpc.StatusCode.INTERNAL, "broken")

    server.before_predict = first_late_second_broken
    with connect(server.target, "m", hedge_after=0.1, timeout=5.0) as client:
        assert client.recommend("7").items
    assert server.attempts["Predict"] == 2


def test_the_deadline_covers_both_calls(server: ScriptedServer, connect: Connect) -> None:
    server.before_predict = lambda context: time.sleep(1.0)
    with connect(server.target, "m", hedge_after=0.1, timeout=5.0) as client:
        client.status()
        start = time.monotonic()
        with pytest.raises(Exception, match="DEADLINE_EXCEEDED"):
            client.recommend("7", timeout=0.4)
        assert time.monotonic() - start < 0.9


def test_second_calls_are_a_tenth_after_a_burst_of_ten() -> None:
    budget = HedgeBudget()
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    spent = 0
    for _ in range(1000):
        budget.earn()
        spent += budget.spend()
    assert 99 <= spent <= 100


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_large_batch_goes_as_several_requests_in_order(server: ScriptedServer, connect: Connect) -> None:
    together = threading.Barrier(4)

    def four_at_once(context: grpc.ServicerContext) -> None:
        if server.attempts["Predict"] <= 4:
            together.wait(10)  # breaks, and fails the call, unless four requests are under way together

    server.before_predict = four_at_once
    with connect(server.target, "m", timeout=20.0, batch_size=10) as client:
        lists = client.recommend_many([Query(str(user)) for user in range(65)])
    assert [answer.items[0].item_id for answer in lists] == [f"for-{user}" for user in range(65)]
    sizes = sorted(len(request.inputs["user_id"].string_val) for request in server.requests)
    assert sizes == [5, 10, 10, 10, 10, 10, 10]
    assert server.attempts["GetModelMetadata"] == 1


def test_a_part_that_fails_fails_the_batch(server: ScriptedServer, connect: Connect) -> None:
    def third_fails(context: grpc.ServicerContext) -> None:
        if server.attempts["Predict"] >= 3:
            context.abort(grpc.StatusCode.INTERNAL, "broken")

    server.before_predict = third_fails
    with connect(server.target, "m", timeout=5.0, batch_size=1) as client, pytest.raises(Exception, match="broken"):
        client.recommend_many([Query(str(user)) for user in range(100)])
    assert server.attempts["Predict"] < 100  # those that had not begun did not begin
