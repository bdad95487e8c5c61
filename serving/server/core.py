"""From a request that was read to its answer, whichever protocol it came by: where it runs, and what is counted.

A request for a quick signature is answered where it was read. Every other one goes to a pool of threads, of which a
bounded number of requests may wait: one more is refused at once, so that neither memory nor waiting time grow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import numpy.typing as npt
from tensorflow_serving.apis import model_pb2

from twotower.serving.server.batching import Batcher, can_be_batched
from twotower.serving.server.errors import ServingError
from twotower.serving.server.manager import ModelManager
from twotower.serving.server.metrics import Metrics
from twotower.serving.server.predict import DEFAULT_SIGNATURE
from twotower.serving.server.request_log import RequestLog
from twotower.serving.server.servable import Servable, Signature

# Reading a larger request takes long enough to hold up the others.
QUICK_BYTES = 16 * 2**10
MAX_PENDING_BYTES = 2**31
_MAX_TIMEOUT_MS = 2**31 - 1

T = TypeVar("T")
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Call:
    """What is to be run for a request.

    Args:
        signature: one of the servable's.
        inputs: alias to value.
        aliases: of the outputs.
    """

    signature: Signature
    inputs: Arrays
    aliases: Sequence[str]


Prepare = Callable[[Servable], Call]
Finish = Callable[[Servable, Call, Sequence[npt.NDArray[Any]]], T]


class Core:
    """Answers requests from a manager's models; used from one event loop.

    Args:
        manager: of the models.
        executor: threads that run what is not quick.
        max_pending: inference requests that may wait or run.
        batcher: runs requests together; None runs each alone.

    Attributes:
        manager: of the models.
        metrics: what is counted.
        log: the sampled requests.
    """

    def __init__(
        self,
        manager: ModelManager,
        executor: Executor,
        max_pending: int,
        metrics: Metrics,
        log: RequestLog,
        batcher: Batcher | None = None,
    ) -> None:
        self.manager = manager
        self.metrics = metrics
        self.log = log
        self._executor = executor
        self._max_pending = max_pending
        self._batcher = batcher
        self._pending = 0
        self._pending_bytes = 0

    async def predict(
        self, spec: model_pb2.ModelSpec, size: int, deadline: float | None, prepare: Prepare, finish: Finish[T]
    ) -> T:
        """Runs a signature.

        Args:
            spec: of the model.
            size: bytes of the request.
            deadline: `time.monotonic()` at which nobody waits any more; None for never.
            prepare: reads the request against the servable's signatures.
            finish: makes the answer of the outputs.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, too many requests wait; or whatever is wrong with the request or its run.
        """
        if self._batcher is not None:
            return await self._predict_in_batch(self._batcher, spec, size, deadline, prepare, finish)
        if size <= QUICK_BYTES:
            with self.manager.acquire(spec) as servable:
                signature = servable.signatures.get(spec.signature_name or DEFAULT_SIGNATURE)
                if signature is not None and signature.pace.quick:
                    return self._predict(servable, None, prepare, finish)
        arrived = time.perf_counter()

        def job() -> T:
            self.metrics.stage_latency.observe(spec.name, "queue", seconds=time.perf_counter() - arrived)
            with self.manager.acquire(spec) as servable:
                return self._predict(servable, deadline, prepare, finish)

        return await self._in_pool(job, size)

    def _predict(self, servable: Servable, deadline: float | None, prepare: Prepare, finish: Finish[T]) -> T:
        began = time.perf_counter()
        call = prepare(servable)
        ready = time.perf_counter()
        outputs = servable.run(call.signature, call.inputs, call.aliases, timeout_ms(deadline))
        ran = time.perf_counter()
        answer = finish(servable, call, outputs)
        self._observe(servable.name, began, ready, ran)
        return answer

    async def _predict_in_batch(
        self,
        batcher: Batcher,
        spec: model_pb2.ModelSpec,
        size: int,
        deadline: float | None,
        prepare: Prepare,
        finish: Finish[T],
    ) -> T:
        began = time.perf_counter()
        with self.manager.acquire(spec) as servable:
            call = prepare(servable)
            if not can_be_batched(call.inputs):
                return await self._in_pool(lambda: self._predict(servable, deadline, lambda _: call, finish), size)
            ready = time.perf_counter()
            # The batch may outlive this request, whose caller can go: it holds the same version for itself.
            version = model_pb2.ModelSpec(name=spec.name)
            version.version.value = servable.version
            with self._admitted(size):
                outputs = await batcher.run(
                    lambda: self.manager.acquire(version),
                    call.signature,
                    call.inputs,
                    call.aliases,
                    timeout_ms(deadline),
                )
            ran = time.perf_counter()
            answer = finish(servable, call, outputs)
            self._observe(servable.name, began, ready, ran)
            return answer

    def _observe(self, model: str, began: float, ready: float, ran: float) -> None:
        done = time.perf_counter()
        self.metrics.stage_latency.observe_all(
            ((model, "parse"), ready - began), ((model, "run"), ran - ready), ((model, "reply"), done - ran)
        )
        self.metrics.runtime_latency.observe(model, "Predict", "TF1", seconds=ran - ready)

    async def run(self, spec: model_pb2.ModelSpec, size: int, job: Callable[[Servable], T]) -> T:
        """What `job` makes of the servable that the spec means, in a thread of the pool.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, too many requests wait; or whatever is wrong with the request or its run.
        """

        def held() -> T:
            with self.manager.acquire(spec) as servable:
                return job(servable)

        return await self._in_pool(held, size)

    async def _in_pool(self, job: Callable[[], T], size: int) -> T:
        with self._admitted(size):
            # A caller that goes away takes its job out of the queue, if it has not begun.
            return await asyncio.get_running_loop().run_in_executor(self._executor, job)

    def _admitted(self, size: int) -> _Admitted:
        full = self._pending >= self._max_pending
        if full or (self._pending and self._pending_bytes + size > MAX_PENDING_BYTES):
            self.metrics.refused.add()
            raise ServingError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._pending} requests of {self._pending_bytes} bytes wait or run; expected at most"
                f" {self._max_pending} of {MAX_PENDING_BYTES} bytes",
            )
        return _Admitted(self, size)

    def entered(self, requests: int, size: int) -> None:
        """Notes requests that come (or go, where negative)."""
        self._pending += requests
        self._pending_bytes += size
        self.metrics.pending.set(value=self._pending)


class _Admitted:
    """A request that counts among the pending ones while it lasts."""

    def __init__(self, core: Core, size: int) -> None:
        self._core, self._size = core, size

    def __enter__(self) -> None:
        self._core.entered(1, self._size)

    def __exit__(self, *_: object) -> None:
        self._core.entered(-1, -self._size)


def timeout_ms(deadline: float | None) -> int | None:
    """Milliseconds left until a `time.monotonic()`, at least 1; None without a deadline.

    Raises:
        ServingError: DEADLINE_EXCEEDED, it has passed.
    """
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification")
    # Longer than a RunOptions can say is as good as no deadline.
    milliseconds = max(1, int(remaining * 1000))
    return milliseconds if milliseconds <= _MAX_TIMEOUT_MS else None
