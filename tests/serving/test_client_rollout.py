"""Versions by number and label, the split of users, and shadow calls."""

import hashlib
import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_loop import Connect, InLoop
from scripted_server import LISTS, ScriptedServer

from twotower_client import (
    AsyncRecommender,
    CanarySplit,
    Comparison,
    InvalidRequestError,
    Query,
    Recommender,
    Shadow,
    UnknownLabelError,
)
from twotower_client import wire_pb2 as wire
from twotower_client.shadow import overlap, rank_correlation


@pytest.fixture(params=[Recommender, AsyncRecommender])
def connect(request: pytest.FixtureRequest) -> Connect:
    return Recommender if request.param is Recommender else InLoop.connect


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    scripted.version = 3
    scripted.labels = {"stable": 1, "canary": 2}
    yield scripted
    scripted.stop()


# --- choice of a version ---------------------------------------------------------------------------------------------


def test_the_calls_choice_comes_before_the_clients(server: ScriptedServer, connect: Connect) -> None:
    with connect(server.target, "m") as client:
        assert client.recommend("7").model_version == 3
        assert client.recommend("7", label="canary").model_version == 2
        assert client.recommend("7", version=1).model_version == 1
        assert client.recommend_many([Query("7")], label="stable")[0].model_version == 1
        assert client.embed_query("7", version=2).model_version == 2
    with connect(server.target, "m", label="stable") as client:
        assert client.recommend("7").model_version == 1
        assert client.recommend("7", version=3).model_version == 3
    with connect(server.target, "m", version=2) as client:
        assert client.recommend("7").model_version == 2


def test_each_choice_has_its_own_signatures(server: ScriptedServer, connect: Connect) -> None:
    with connect(server.target, "m") as client:
        for _ in range(3):
            client.recommend("7", label="stable")
            client.recommend("7", label="canary")
        assert server.attempts["GetModelMetadata"] == 2
        server.labels["stable"] = 2  # the promoted version is known already
        client.recommend("7", label="stable")
        client.recommend("7", label="stable")
        assert server.attempts["GetModelMetadata"] == 2


def test_an_unknown_label_is_an_error_of_its_own(server: ScriptedServer, connect: Connect) -> None:
    with connect(server.target, "m") as client, pytest.raises(UnknownLabelError, match="label: best"):
        client.recommend("7", label="best")


# --- the split -------------------------------------------------------------------------------------------------------

USERS = st.text(min_size=1, max_size=20)


@given(user=USERS, percent=st.floats(0, 100), salt=st.text(max_size=5))
def test_a_user_stays_on_one_side_and_a_larger_share_keeps_the_smaller(user: str, percent: float, salt: str) -> None:
    label = CanarySplit(percent, salt).label(user)
    assert CanarySplit(percent, salt).label(user) == label
    assert CanarySplit(0, salt).label(user) == "stable"
    assert CanarySplit(100, salt).label(user) == "canary"
    if label == "canary":
        assert CanarySplit(min(percent * 1.5, 100), salt).label(user) == "canary"


@given(user=USERS, salt=st.text(max_size=5))
def test_the_hash_is_the_documented_one(user: str, salt: str) -> None:
    digest = hashlib.sha256(salt.encode() + b"\x00" + user.encode()).hexdigest()
    expected = "canary" if int(digest[:16], 16) / 2**64 < 0.3 else "stable"
    assert CanarySplit(30, salt).label(user) == expected


@pytest.mark.parametrize("percent", [1, 5, 50])
@given(salt=st.text(max_size=8), first=st.integers(0, 10**9))
def test_the_share_is_the_wanted_one(percent: float, salt: str, first: int) -> None:
    n = 4000
    split = CanarySplit(percent, salt)
    found = sum(split.label(str(user)) == "canary" for user in range(first, first + n))
    share = percent / 100
    # Six standard deviations of a binomial: one run in hundreds of millions is outside.
    assert abs(found - n * share) < 6 * (n * share * (1 - share)) ** 0.5


def test_another_salt_draws_other_users() -> None:
    users = [str(user) for user in range(2000)]
    both = sum(CanarySplit(50, "a").label(user) == CanarySplit(50, "b").label(user) for user in users)
    assert 850 < both < 1150


@pytest.mark.parametrize("percent", [-1, 101, float("nan"), "5"])
def test_a_share_that_is_none_is_refused(percent: float) -> None:
    with pytest.raises(InvalidRequestError, match="percent: expected 0 to 100"):
        CanarySplit(percent)


def test_the_split_chooses_the_label(server: ScriptedServer, connect: Connect) -> None:
    split = CanarySplit(40, "s")
    versions = {"stable": 1, "canary": 2}
    users = [str(user) for user in range(40)]
    with connect(server.target, "m", split=split, batch_size=8) as client:
        lists = client.recommend_many([Query(user) for user in users])
        assert [answer.items[0].item_id for answer in lists] == [f"for-{user}" for user in users]
        assert [answer.model_version for answer in lists] == [versions[split.label(user)] for user in users]
        assert {answer.model_version for answer in lists} == {1, 2}
        for user in users[:5]:
            assert client.recommend(user).model_version == versions[split.label(user)]
        assert client.recommend().model_version == 1
        assert client.recommend(users[0], version=3).model_version == 3


def test_without_a_canary_the_stable_version_answers(server: ScriptedServer, connect: Connect) -> None:
    with connect(server.target, "m", split=CanarySplit(100)) as client:
        assert client.recommend("7").model_version == 2
        del server.labels["canary"]
        assert client.recommend("7").model_version == 1
        assert client.recommend_many([Query("8"), Query("")])[0].model_version == 1
        with pytest.raises(UnknownLabelError):  # somebody asked for it by name
            client.recommend("7", label="canary")
    with connect(server.target, "m", split=CanarySplit(100)) as client:
        assert client.recommend("7").model_version == 1
        del server.labels["stable"]
        with pytest.raises(UnknownLabelError, match="label: stable"):
            client.recommend("7")


def test_a_split_beside_a_version_is_refused(connect: Connect) -> None:
    with pytest.raises(InvalidRequestError, match="split: expected no version and no label beside it"):
        connect("localhost:1", split=CanarySplit(5), label="stable")


# --- shadow calls ----------------------------------------------------------------------------------------------------


def test_overlap_and_rank_correlation_by_hand() -> None:
    assert overlap("abcd", "cdef") == 0.5
    assert overlap("ab", "abcd") == 0.5
    assert overlap("", "") == 1.0
    assert overlap("ab", "") == 0.0
    assert rank_correlation("abc", "abc") == 1.0
    assert rank_correlation("abc", "cba") == -1.0
    # Ranks of a, b, c, d: 0 1 2 3 against 1 0 2 3; 1 - 6 * 2 / (4 * 15).
    assert rank_correlation("abcd", "bacd") == pytest.approx(0.8)
    assert rank_correlation("axb", "yab") == 1.0
    assert rank_correlation("ab", "bc") is None


@pytest.fixture
def other() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    scripted.version = 9
    yield scripted
    scripted.stop()


def test_a_shadow_is_compared_and_not_returned(server: ScriptedServer, other: ScriptedServer, connect: Connect) -> None:
    seen: list[Comparison] = []
    with Recommender(other.target, "m") as second, Shadow(second, seen.append) as shadow:
        with connect(server.target, "m", label="stable", shadow=shadow) as client:
            history = [("a", 1)]
            assert client.recommend("7", history, label="canary").model_version == 2
            history.clear()
            assert [answer.model_version for answer in client.recommend_many([Query("8"), Query("9")])] == [1, 1]
            client.embed_query("7")
        assert shadow.drain(10)
        summary = shadow.summary()
    assert [(one.call, one.overlap, one.version, one.shadow_version) for one in seen if one.call == "recommend"] == [
        ("recommend", 1.0, 2, 9)
    ]
    assert (summary.compared, summary.failed, summary.dropped, summary.overlap) == (3, 0, 0, 1.0)
    assert summary.rank_correlation is None  # lists of one item
    assert summary.median_seconds is not None
    assert other.attempts["Predict"] == 2
    assert all(not request.model_spec.version_label for request in other.requests)
    (sent,) = (request for request in other.requests if list(request.inputs["user_id"].string_val) == [b"7"])
    assert list(sent.inputs["history_item_ids"].string_val) == [b"a"]


def test_a_shadow_that_hangs_or_fails_is_not_felt(server: ScriptedServer, other: ScriptedServer) -> None:
    released = threading.Event()

    def hang(context: grpc.ServicerContext) -> None:
        released.wait(10)
        context.abort(grpc.StatusCode.INTERNAL, "broken")

    other.before_predict = hang
    seen: list[Comparison] = []
    with Recommender(other.target, "m", timeout=10) as second, Shadow(second, seen.append, queue_size=3) as shadow:
        with Recommender(server.target, "m", shadow=shadow) as client:
            client.recommend("0")
            start = time.monotonic()
            for user in range(1, 20):
                assert client.recommend(str(user)).items[0].item_id == f"for-{user}"
            assert time.monotonic() - start < 2
            assert not shadow.drain(0.05)
            # Two under way and three waiting, or fewer if a thread was slow to begin.
            assert 15 <= shadow.summary().dropped <= 17
            released.set()
            assert shadow.drain(10)
        summary = shadow.summary()
    assert summary.compared == 0
    assert summary.failed == len(seen) == 20 - summary.dropped
    assert all("broken" in str(one.error) for one in seen)


def test_a_report_that_fails_does_not_stop_the_shadow(server: ScriptedServer, other: ScriptedServer) -> None:
    def report(comparison: Comparison) -> None:
        raise RuntimeError("full disk")

    with Recommender(other.target, "m") as second, Shadow(second, report) as shadow:
        with Recommender(server.target, "m", shadow=shadow) as client:
            for _ in range(5):
                client.recommend("7")
                assert shadow.drain(10)
        assert shadow.summary().compared == 5


def test_a_shadow_with_another_signature_gets_its_own_request(server: ScriptedServer, other: ScriptedServer) -> None:
    other.signatures["recommend"] = {**LISTS, "context_store": (wire.DT_STRING, (-1,))}
    with Recommender(other.target, "m") as second, Shadow(second) as shadow:
        with Recommender(server.target, "m", shadow=shadow) as client:
            client.recommend("7")
        assert shadow.drain(10)
        assert shadow.summary().compared == 1


def test_a_closed_shadow_forgets_what_waits(server: ScriptedServer, other: ScriptedServer) -> None:
    with Recommender(other.target, "m") as second:
        shadow = Shadow(second)
        shadow.close()
        shadow.close()
        with Recommender(server.target, "m", shadow=shadow) as client:
            assert client.recommend("7").items
    assert not other.attempts
