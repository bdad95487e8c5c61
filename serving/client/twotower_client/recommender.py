"""The blocking client: one object per model, shared by all threads of a process."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from threading import Lock
from time import monotonic, perf_counter, sleep
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc

from .calls import Calls
from .channel import METHODS, OPTIONS, authorization, target_uri
from .client import CONCURRENT_REQUESTS, Client
from .errors import ClientClosedError, DeadlineExceededError, RecommenderError, from_status
from .steps import Alone, Plan, Rpc, Sleep, Step, Together

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(plan: Callable[Concatenate[Calls, P], Plan[T]]) -> Callable[Concatenate[Recommender, P], T]:
    """Return the method that carries the plan out and waits for it."""

    @functools.wraps(plan)
    def call(self: Recommender, /, *args: P.args, **kwargs: P.kwargs) -> T:
        start = perf_counter()
        answer = self._run(plan(self._calls, *args, **kwargs))
        if self._shadow is not None:
            self._shadow.offer(plan.__name__, args, kwargs, answer, perf_counter() - start)
        return answer

    return call


class Recommender(Client):
    """A recommender served by TensorFlow Serving, or by the embedded server. Thread-safe.

    Example:
        >>> with Recommender("localhost:8500") as recommender:
        ...     result = recommender.recommend("1364", history=[("banana", 1_700_000_000)], k=10)

    Every call has a deadline, which also covers its retries and the first call's look at the model's metadata.
    Every call raises a `RecommenderError`: InvalidRequestError, NotFoundError, AuthenticationError,
    DeadlineExceededError, UnavailableError, OverloadedError, ServerError or ClientClosedError.

    The arguments are those of `Client`.
    """

    recommend = _blocking(Calls.recommend)
    recommend_many = _blocking(Calls.recommend_many)
    retrieve = _blocking(Calls.retrieve)
    rank = _blocking(Calls.rank)
    similar_items = _blocking(Calls.similar_items)
    embed_query = _blocking(Calls.embed_query)
    embed_items = _blocking(Calls.embed_items)
    status = _blocking(Calls.status)
    wait_until_ready = _blocking(Calls.wait_until_ready)

    def close(self) -> None:
        """Close the connection; calls under way and later ones raise ClientClosedError. Again: nothing."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Recommender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, target: str, credentials: grpc.ChannelCredentials | None) -> None:
        uri = target_uri(target)
        self._channel = (
            grpc.insecure_channel(uri, options=OPTIONS)
            if credentials is None
            else grpc.secure_channel(uri, credentials, options=OPTIONS)
        )
        self._methods = {name: self._channel.unary_unary(*method) for name, method in METHODS.items()}
        self._lock = Lock()

    def _run(self, plan: Plan[T]) -> T:
        self._check_open()
        result: Any = None
        error: RecommenderError | None = None
        while True:
            try:
                step = plan.send(result) if error is None else plan.throw(error)
            except StopIteration as done:
                answer: T = done.value
                return answer
            result, error = None, None
            try:
                result = self._carry_out(step)
            except RecommenderError as caught:
                error = caught

    def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Rpc):
            return self._send(step)
        if isinstance(step, Alone):
            if not self._lock.acquire(timeout=step.timeout):
                raise DeadlineExceededError(grpc.StatusCode.DEADLINE_EXCEEDED, step.waiting_for)
            try:
                return self._run(step.plan)
            finally:
                self._lock.release()
        if isinstance(step, Together):
            return self._together(step)
        assert isinstance(step, Sleep)
        return sleep(step.seconds)

    def _together(self, step: Together) -> list[Any]:
        with ThreadPoolExecutor(min(len(step.plans), CONCURRENT_REQUESTS)) as pool:
            pending = [pool.submit(self._run, plan) for plan in step.plans]
            try:
                return [future.result() for future in pending]
            finally:
                for future in pending:  # after a failure, what has not begun does not begin
                    future.cancel()

    def _send(self, rpc: Rpc) -> Any:
        self._check_open()
        metadata = authorization(self._token)
        with self._typed_errors():
            if rpc.method == "Predict" and self._hedge_after is not None:
                return self._hedged(rpc, metadata, self._hedge_after)
            return self._methods[rpc.method](
                rpc.request, timeout=rpc.timeout, metadata=metadata, wait_for_ready=rpc.wait_for_ready
            )

    def _hedged(self, rpc: Rpc, metadata: tuple[tuple[str, str], ...], hedge_after: float) -> Any:
        deadline = monotonic() + rpc.timeout
        done: SimpleQueue[Any] = SimpleQueue()
        calls: list[Any] = []

        def start() -> None:
            timeout = max(deadline - monotonic(), 0)
            calls.append(self._methods[rpc.method].future(rpc.request, timeout=timeout, metadata=metadata))
            calls[-1].add_done_callback(done.put)

        self._budget.earn()
        start()
        try:
            try:
                winner = done.get(timeout=hedge_after)
            except Empty:
                if self._budget.spend():
                    start()
                winner = done.get()
                if len(calls) == 2 and winner.code() is not grpc.StatusCode.OK:
                    winner = done.get()
            return winner.result()
        finally:
            for call in calls:
                call.cancel()  # nothing where it is done

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            if self._closed:
                raise ClientClosedError from error
            raise from_status(error.code(), error.details() or "") from error
        except (ValueError, grpc.FutureCancelledError) as error:  # "Cannot invoke RPC on closed channel!"
            if self._closed:
                raise ClientClosedError from error
            raise
