"""Requests run together: the same answers as alone, fewer runs, TensorFlow Serving's limits."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_harness import save_toy

from twotower.serving.server.batching import Batcher, BatchingOptions, batching_options, can_be_batched
from twotower.serving.server.config_protos import BatchingParameters
from twotower.serving.server.errors import ServingError, StartupError
from twotower.serving.server.lifecycle import ModelLifecycle


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelLifecycle]:
    base = tmp_path_factory.mktemp("toy")
    save_toy(base, 2)
    model = ModelLifecycle("toy", str(base))
    model.refresh()
    yield model
    model.close()


def answers(
    model: ModelLifecycle, options: BatchingOptions, signature: str, alias: str, requests: list[dict[str, Any]]
) -> tuple[list[Any], int]:
    """What each request gets, or the error it fails with, all sent at once; and how many runs that took."""
    runs = []

    async def ask_all() -> list[Any]:
        with ThreadPoolExecutor(2) as executor:
            batcher = Batcher(options, executor)
            with model.acquire() as servable:
                run = servable.run

                def counted(*arguments: Any) -> Any:
                    runs.append(1)
                    return run(*arguments)

                servable.run = counted  # type: ignore[method-assign,assignment]
                try:
                    calls = [
                        batcher.run(model.acquire, servable.signatures[signature], inputs, [alias], 10_000)
                        for inputs in requests
                    ]
                    return list(await asyncio.gather(*calls, return_exceptions=True))
                finally:
                    servable.run = run  # type: ignore[method-assign]

    found = asyncio.run(ask_all())
    return [answer if isinstance(answer, BaseException) else answer[0].tolist() for answer in found], len(runs)


@given(st.lists(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=5), min_size=1, max_size=12))
def test_every_request_gets_its_own_rows(model: ModelLifecycle, rows: list[list[float]]) -> None:
    requests = [{"x": np.array(values, np.float32)} for values in rows]
    found, runs = answers(model, BatchingOptions(max_batch_size=16), "serving_default", "y", requests)
    assert found == [[2 * value for value in values] for values in rows]
    assert runs <= -(-sum(map(len, rows)) // 8) + 1


def test_all_fit_into_one_run_and_are_filled_up_to_an_allowed_size(model: ModelLifecycle) -> None:
    options = BatchingOptions(max_batch_size=8, allowed_sizes=(4, 8))
    requests = [{"x": np.array([float(n)], np.float32)} for n in range(5)]
    found, runs = answers(model, options, "serving_default", "y", requests)
    assert found == [[0.0], [2.0], [4.0], [6.0], [8.0]]
    assert runs == 1


def test_requests_with_different_scalars_do_not_meet(model: ModelLifecycle) -> None:
    def request(word: str, k: int) -> dict[str, Any]:
        words = np.empty(1, object)
        words[0] = word.encode()
        return {"words": words, "k": np.array(k, np.int32)}

    found, runs = answers(
        model, BatchingOptions(), "lookup", "names", [request("apple", 2), request("no", 2), request("bread", 3)]
    )
    assert runs == 2
    assert found[2] == [b"bread/1"]


def test_one_wrong_request_fails_alone(model: ModelLifecycle) -> None:
    wrong = {"x": np.zeros((1, 3), np.float64)}
    right = {"x": np.array([1.0], np.float32)}
    found, _ = answers(model, BatchingOptions(), "serving_default", "y", [right, wrong, right])
    assert found[0] == found[2] == [2.0]
    assert isinstance(found[1], ServingError)
    assert found[1].message == "Expects arg[0] to be float but double is provided"


def test_too_many_rows_and_too_many_batches_are_refused(model: ModelLifecycle) -> None:
    options = BatchingOptions(max_batch_size=2, max_enqueued_batches=1, threads=1, timeout_seconds=0.05)
    requests = [{"x": np.zeros(rows, np.float32)} for rows in (3, 1, 2, 2, 2)]
    found, _ = answers(model, options, "serving_default", "y", requests)
    assert isinstance(found[0], ServingError)
    assert found[0].message == "Task size 3 is larger than maximum input batch size 2"
    full = [answer for answer in found[1:] if isinstance(answer, ServingError)]
    assert full
    assert {error.code.name for error in full} == {"UNAVAILABLE"}


def test_rows_of_different_lengths_are_padded_if_asked(model: ModelLifecycle) -> None:
    short, long = {"x": np.ones((1, 1), np.float32)}, {"x": np.ones((1, 3), np.float32)}
    found, runs = answers(model, BatchingOptions(pad=True), "serving_default", "y", [short, long])
    assert runs == 1
    assert found == [[[2.0, 0.0, 0.0]], [[2.0, 2.0, 2.0]]]
    assert answers(model, BatchingOptions(), "serving_default", "y", [short, long])[1] == 2


@pytest.mark.parametrize(
    ("inputs", "batched"),
    [
        ({"a": np.zeros(2), "k": np.array(3)}, True),
        ({"a": np.zeros(2), "b": np.zeros((2, 5))}, True),
        ({"a": np.zeros(2), "b": np.zeros(3)}, False),
        ({"a": np.zeros(0)}, False),
        ({"k": np.array(3)}, False),
    ],
)
def test_rows_are_what_the_inputs_have_in_common(inputs: dict[str, Any], batched: bool) -> None:
    assert can_be_batched(inputs) is batched


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"allowed_batch_sizes": [4, 8]}, "expected rising sizes that end with 1000"),
        ({"max_batch_size": {"value": 0}}, "max_batch_size: expected 1 or more, found 0"),
        ({"num_batch_threads": {"value": 0}}, "num_batch_threads: expected 1 or more"),
        ({"batch_timeout_micros": {"value": -1}}, "batch_timeout_micros: expected 0 or more"),
    ],
)
def test_wrong_parameters_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        batching_options(BatchingParameters(**fields), threads=2)
