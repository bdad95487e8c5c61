"""Requests that wait are run together: `--enable_batching`, with TensorFlow Serving's parameters and their meaning.

It pays where a run costs much and a larger batch little more. It does not for small models, and a timeout is paid even
by a request that is alone.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from twotower.serving.server.errors import ServingError, StartupError, invalid_argument
from twotower.serving.server.lifecycle import Held
from twotower.serving.server.servable import Signature

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class BatchingOptions:
    """`BatchingParameters`, with TensorFlow Serving's defaults.

    Args:
        max_batch_size: rows of a batch, and of a request.
        timeout_seconds: how long a request may wait for others.
        max_enqueued_batches: batches that may wait for a thread.
        threads: batches run at once.
        allowed_sizes: sizes to which a batch is filled up with copies of its first row; empty for any.
        pad: whether rows of different lengths are filled up with zeros or empty strings.
    """

    max_batch_size: int = 1000
    timeout_seconds: float = 0.0
    max_enqueued_batches: int = 10
    threads: int = 8
    allowed_sizes: tuple[int, ...] = ()
    pad: bool = False


def batching_options(parameters: Any, threads: int) -> BatchingOptions:
    """`BatchingParameters` as options.

    Args:
        parameters: the message.
        threads: batches run at once, where it does not say.

    Raises:
        StartupError: a parameter cannot be meant; the field is named.
    """

    def value(name: str, default: int) -> int:
        return int(getattr(parameters, name).value) if parameters.HasField(name) else default

    options = BatchingOptions(
        max_batch_size=value("max_batch_size", BatchingOptions.max_batch_size),
        timeout_seconds=value("batch_timeout_micros", 0) / 1e6,
        max_enqueued_batches=value("max_enqueued_batches", BatchingOptions.max_enqueued_batches),
        threads=value("num_batch_threads", threads),
        allowed_sizes=tuple(parameters.allowed_batch_sizes),
        pad=parameters.pad_variable_length_inputs,
    )
    for name, found in (
        ("max_batch_size", options.max_batch_size),
        ("max_enqueued_batches", options.max_enqueued_batches),
        ("num_batch_threads", options.threads),
    ):
        if found < 1:
            raise StartupError(f"batching parameters: {name}: expected 1 or more, found {found}")
    if options.timeout_seconds < 0:
        raise StartupError("batching parameters: batch_timeout_micros: expected 0 or more")
    sizes = options.allowed_sizes
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != options.max_batch_size):
        raise StartupError(
            f"batching parameters: allowed_batch_sizes: expected rising sizes that end with {options.max_batch_size}"
            f" (max_batch_size), found {', '.join(map(str, sizes))}"
        )
    return options


@dataclass
class _Task:
    inputs: Arrays
    rows: int
    timeout_ms: int | None
    done: "asyncio.Future[list[npt.NDArray[Any]]]"


@dataclass
class _Batch:
    held: Held
    signature: Signature
    aliases: Sequence[str]
    tasks: list[_Task] = field(default_factory=list)
    rows: int = 0
    due: bool = False


class Batcher:
    """Gathers requests for one signature of one version; used from one event loop.

    Requests meet in a batch if their scalars are equal and so are the shapes of their rows, or can be padded to be.

    Args:
        options: how.
        executor: where batches are run.
    """

    def __init__(self, options: BatchingOptions, executor: Executor) -> None:
        self._options = options
        self._executor = executor
        # One that may still grow, for each kind of request, in the order in which they were begun.
        self._open: dict[Any, _Batch] = {}
        self._full: list[_Batch] = []
        self._running = 0

    async def run(
        self,
        hold: Callable[[], Held],
        signature: Signature,
        inputs: Arrays,
        aliases: Sequence[str],
        timeout_ms: int | None,
    ) -> list[npt.NDArray[Any]]:
        """The outputs for one request's rows.

        Args:
            hold: takes hold of the version once more, for as long as the batch takes.
            signature, inputs, aliases, timeout_ms: as of `Servable.run`.

        Raises:
            ServingError: INVALID_ARGUMENT, more rows than a batch may have; UNAVAILABLE, too many batches wait; or what
                the run itself failed with.
        """
        rows = _rows_of(inputs)
        if rows > self._options.max_batch_size:
            raise invalid_argument(
                f"Task size {rows} is larger than maximum input batch size {self._options.max_batch_size}"
            )
        loop = asyncio.get_running_loop()
        task = _Task(inputs, rows, timeout_ms, loop.create_future())
        key = (id(signature), tuple(aliases), self._key(inputs))
        batch = self._open.get(key)
        if batch is not None and batch.rows + rows > self._options.max_batch_size:
            self._full.append(self._open.pop(key))
            batch = None
        if batch is None:
            if len(self._full) + len(self._open) >= self._options.max_enqueued_batches:
                raise ServingError(
                    grpc.StatusCode.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full",
                )
            batch = self._open[key] = _Batch(hold(), signature, aliases)
            loop.call_later(self._options.timeout_seconds, self._waited, batch)
        batch.tasks.append(task)
        batch.rows += rows
        if batch.rows == self._options.max_batch_size:
            self._full.append(self._open.pop(key))
            self._start()
        return await task.done

    def _key(self, inputs: Arrays) -> tuple[Any, ...]:
        parts: list[Any] = []
        for alias, array in inputs.items():
            if array.ndim == 0:
                parts.append((alias, array.dtype.str, array.item()))
            else:
                parts.append((alias, array.dtype.str, array.ndim if self._options.pad else array.shape[1:]))
        return tuple(parts)

    def _waited(self, batch: _Batch) -> None:
        batch.due = True
        self._start()

    def _start(self) -> None:
        """Runs what is full, then what has waited long enough, while there are threads; the rest may still grow."""
        loop = asyncio.get_running_loop()
        while self._running < self._options.threads and (batch := self._next()) is not None:
            batch.tasks = [task for task in batch.tasks if not task.done.done()]  # its caller may have gone
            if not batch.tasks:
                batch.held.__exit__()
                continue
            self._running += 1
            running = loop.run_in_executor(self._executor, self._run, batch)
            running.add_done_callback(partial(self._finished, batch))

    def _next(self) -> _Batch | None:
        if self._full:
            return self._full.pop(0)
        key = next((key for key, batch in self._open.items() if batch.due), None)
        return None if key is None else self._open.pop(key)

    def _run(self, batch: _Batch) -> list[list[npt.NDArray[Any]]]:
        tasks = batch.tasks
        joined = {alias: self._joined([task.inputs[alias] for task in tasks]) for alias in tasks[0].inputs}
        rows = sum(task.rows for task in tasks)
        padding = next((size for size in self._options.allowed_sizes if size >= rows), rows) - rows
        if padding:
            joined = {
                alias: array if array.ndim == 0 else np.concatenate([array, np.repeat(array[:1], padding, axis=0)])
                for alias, array in joined.items()
            }
        timeouts = [task.timeout_ms for task in tasks]
        longest = None if None in timeouts else max(timeout for timeout in timeouts if timeout is not None)
        outputs = batch.held.servable.run(batch.signature, joined, batch.aliases, longest)
        for output in outputs:
            if output.ndim == 0 or len(output) != rows + padding:
                raise ServingError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the"
                    " input tensors",
                )
        ends = np.cumsum([0, *(task.rows for task in tasks)]).tolist()
        return [[output[ends[i] : ends[i + 1]] for output in outputs] for i in range(len(tasks))]

    def _joined(self, arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        if arrays[0].ndim == 0:
            return arrays[0]
        shape = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
        return np.concatenate([_padded(array, shape) for array in arrays])

    def _finished(self, batch: _Batch, future: "asyncio.Future[list[list[npt.NDArray[Any]]]]") -> None:
        self._running -= 1
        batch.held.__exit__()
        error = future.exception()
        for i, task in enumerate(batch.tasks):
            if task.done.done():
                continue
            if error is not None:
                task.done.set_exception(error)
            else:
                task.done.set_result(future.result()[i])
        self._start()


def can_be_batched(inputs: Arrays) -> bool:
    """Whether the inputs have a first dimension in common, that of the rows; scalars stand beside it."""
    sizes = {len(array) for array in inputs.values() if array.ndim}
    return len(sizes) == 1 and 0 not in sizes


def _rows_of(inputs: Arrays) -> int:
    return next(len(array) for array in inputs.values() if array.ndim)


def _padded(array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if array.shape[1:] == shape:
        return array
    filler = b"" if array.dtype.hasobject else 0
    widths = [(0, 0), *((0, size - has) for size, has in zip(shape, array.shape[1:], strict=True))]
    return np.pad(array, widths, constant_values=filler)
