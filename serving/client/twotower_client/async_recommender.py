"""The asyncio client: the calls of `Recommender`, awaited."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from time import monotonic, perf_counter
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

import grpc
import grpc.aio

from .calls import Calls
from .channel import METHODS, OPTIONS, authorization, target_uri
from .client import CONCURRENT_REQUESTS, Client
from .errors import ClientClosedError, DeadlineExceededError, RecommenderError, from_status
from .steps import Alone, Plan, Rpc, Sleep, Step, Together

P = ParamSpec("P")
T = TypeVar("T")


def _awaited(
    plan: Callable[Concatenate[Calls, P], Plan[T]],
) -> Callable[Concatenate[AsyncRecommender, P], Awaitable[T]]:
    """Return the coroutine method that carries the plan out."""

    @functools.wraps(plan)
    async def call(self: AsyncRecommender, /, *args: P.args, **kwargs: P.kwargs) -> T:
        start = perf_counter()
        answer = await self._run(plan(self._calls, *args, **kwargs))
        if self._shadow is not None:
            self._shadow.offer(plan.__name__, args, kwargs, answer, perf_counter() - start)
        return answer

    return call


class AsyncRecommender(Client):
    """`Recommender` for asyncio: the arguments of `Client`, the same calls and errors; every call is awaited.

    Make it where the event loop runs, and use it there alone.

    Example:
        >>> async with AsyncRecommender("localhost:8500") as recommender:
        ...     result = await recommender.recommend("1364", k=10)
    """

    recommend = _awaited(Calls.recommend)
    recommend_many = _awaited(Calls.recommend_many)
    retrieve = _awaited(Calls.retrieve)
    rank = _awaited(Calls.rank)
    similar_items = _awaited(Calls.similar_items)
    embed_query = _awaited(Calls.embed_query)
    embed_items = _awaited(Calls.embed_items)
    status = _awaited(Calls.status)
    wait_until_ready = _awaited(Calls.wait_until_ready)

    async def close(self) -> None:
        """Close the connection; calls under way and later ones raise ClientClosedError. Again: nothing."""
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> AsyncRecommender:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _connect(self, target: str, credentials: grpc.ChannelCredentials | None) -> None:
        uri = target_uri(target)
        self._channel = (
            grpc.aio.insecure_channel(uri, options=OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(uri, credentials, options=OPTIONS)
        )
        self._methods = {name: self._channel.unary_unary(*method) for name, method in METHODS.items()}
        self._lock = asyncio.Lock()

    async def _run(self, plan: Plan[T]) -> T:
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
                result = await self._carry_out(step)
            except RecommenderError as caught:
                error = caught

    async def _carry_out(self, step: Step) -> Any:
        if isinstance(step, Rpc):
            return await self._hedged(step) if step.method == "Predict" else await self._send(step, step.timeout)
        if isinstance(step, Alone):
            try:
                await asyncio.wait_for(self._lock.acquire(), step.timeout)
            except TimeoutError:
                raise DeadlineExceededError(grpc.StatusCode.DEADLINE_EXCEEDED, step.waiting_for) from None
            try:
                return await self._run(step.plan)
            finally:
                self._lock.release()
        if isinstance(step, Together):
            return await self._together(step)
        assert isinstance(step, Sleep)
        return await asyncio.sleep(step.seconds)

    async def _together(self, step: Together) -> list[Any]:
        turns = asyncio.Semaphore(CONCURRENT_REQUESTS)

        async def in_turn(plan: Plan[Any]) -> Any:
            async with turns:
                return await self._run(plan)

        tasks = [asyncio.ensure_future(in_turn(plan)) for plan in step.plans]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _send(self, rpc: Rpc, timeout: float) -> Any:
        self._check_open()
        metadata = authorization(self._token)
        try:
            return await self._methods[rpc.method](
                rpc.request, timeout=timeout, metadata=metadata, wait_for_ready=rpc.wait_for_ready
            )
        except grpc.RpcError as error:
            if self._closed:
                raise ClientClosedError from error
            raise from_status(error.code(), error.details() or "") from error
        except (grpc.aio.UsageError, asyncio.CancelledError) as error:  # close() cancels what is under way
            if self._closed:
                raise ClientClosedError from error
            raise

    async def _hedged(self, rpc: Rpc) -> Any:
        if self._hedge_after is None:
            return await self._send(rpc, rpc.timeout)
        deadline = monotonic() + rpc.timeout
        self._budget.earn()
        tasks = {asyncio.ensure_future(self._send(rpc, rpc.timeout))}
        try:
            done, pending = await asyncio.wait(tasks, timeout=self._hedge_after)
            if pending and self._budget.spend():
                tasks.add(asyncio.ensure_future(self._send(rpc, max(deadline - monotonic(), 0))))
            while True:
                done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                good = [task for task in done if task.exception() is None]
                if good or not pending:
                    return (good or list(done))[0].result()
                tasks = pending
        finally:
            for task in tasks:
                task.cancel()
