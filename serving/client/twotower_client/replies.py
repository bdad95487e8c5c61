"""Predict replies as lists of scored items and as embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, prod

import grpc

from . import wire_pb2 as wire
from .errors import ServerError
from .tensors import Tensor, decode
from .types import Embedding, Recommendation, ScoredItem

_TASK_PREFIX = "score_"
_TIME_PREFIX = "ms_"


def item_lists(reply: wire.PredictResponse) -> list[Recommendation]:
    """Read ``item_ids``, ``scores`` and every ``score_<task>``, all [b, k]; padding (an empty id) is left out."""
    item_ids = _output(reply, "item_ids")
    scores = _output(reply, "scores", item_ids.shape)
    tasks = _prefixed(reply, _TASK_PREFIX, item_ids.shape)
    names = [name for name, _ in tasks]
    rows = zip(item_ids.rows(), scores.rows(), *(task.rows() for _, task in tasks), strict=True)
    times = timings(reply, item_ids.shape[0])
    return [
        Recommendation(
            tuple(
                ScoredItem(item_id.decode(), score, dict(zip(names, of_tasks, strict=True)))
                for item_id, score, *of_tasks in zip(*row, strict=True)
                if item_id
            ),
            reply.model_spec.version.value,
            of_row,
        )
        for row, of_row in zip(rows, times, strict=True)
    ]


def candidate_ids(reply: wire.PredictResponse) -> Tensor:
    """Read the first stage's ``item_ids`` [b, n] as they are, padding included."""
    return _output(reply, "item_ids")


def timings(reply: wire.PredictResponse, batch: int) -> list[dict[str, float]]:
    """Read every ``ms_<stage>`` [batch] as one dictionary a row, in milliseconds; empty where none were asked for."""
    stages = _prefixed(reply, _TIME_PREFIX, (batch,))
    return [{name: times.values[row] for name, times in stages} for row in range(batch)]


def ranked_candidates(reply: wire.PredictResponse, candidates: Sequence[str]) -> Recommendation:
    """Read ``scores`` and every ``score_<task>``, all [1, n], and order the candidates by score.

    Returns:
        All candidates, best first; equal scores keep the order in which they were given.
    """
    shape = (1, len(candidates))
    scores = _output(reply, "scores", shape).values
    tasks = _prefixed(reply, _TASK_PREFIX, shape)
    # NaN, which nothing compares to, goes last.
    order = sorted(range(len(scores)), key=lambda place: -scores[place] if scores[place] == scores[place] else inf)
    items = tuple(
        ScoredItem(candidates[place], scores[place], {name: task.values[place] for name, task in tasks})
        for place in order
    )
    return Recommendation(items, reply.model_spec.version.value)


def embedding(reply: wire.PredictResponse, batch: int) -> Embedding:
    """Read ``embedding`` [batch, dim]."""
    # Those who ask for lists alone need neither install numpy, 65 MB, nor wait for its import, 0.1 to 0.2 s.
    try:
        import numpy as np
    except ImportError:
        raise ImportError("embeddings are numpy arrays: pip install 'twotower-client[embeddings]'") from None

    proto = reply.outputs.get("embedding")
    if proto is not None and proto.dtype == wire.DT_FLOAT and (proto.tensor_content or proto.float_val):
        # A large reply as one buffer, not as a Python object for each number.
        values = (
            np.frombuffer(proto.tensor_content, "<f4") if proto.tensor_content else np.array(proto.float_val, "<f4")
        )
        shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    else:
        shape, numbers = _output(reply, "embedding")
        values = np.array(numbers, np.float32)
    if len(shape) != 2 or shape[0] != batch or values.size != prod(shape):
        raise _unfit(reply, f"output 'embedding' has shape {shape}, {values.size} values, expected ({batch}, dim)")
    return Embedding(values.reshape(shape), reply.model_spec.version.value)


def _prefixed(reply: wire.PredictResponse, prefix: str, shape: tuple[int, ...]) -> list[tuple[str, Tensor]]:
    return [
        (name.removeprefix(prefix), _output(reply, name, shape))
        for name in sorted(reply.outputs)
        if name.startswith(prefix)
    ]


def _output(reply: wire.PredictResponse, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """An output of `shape`, of rank 2 where none is given."""
    if name not in reply.outputs:
        raise _unfit(reply, f"no output {name!r}, it has: {', '.join(sorted(reply.outputs)) or 'none'}")
    try:
        tensor = decode(reply.outputs[name])
    except ValueError as error:
        raise _unfit(reply, f"output {name!r}: {error}") from error
    if len(tensor.shape) != 2 if shape is None else tensor.shape != shape:
        raise _unfit(reply, f"output {name!r} has shape {tensor.shape}, expected {shape or 'rank 2'}")
    return tensor


def _unfit(reply: wire.PredictResponse, message: str) -> ServerError:
    spec = reply.model_spec
    return ServerError(
        grpc.StatusCode.INTERNAL,
        f"reply of {spec.name!r} version {spec.version.value}, signature {spec.signature_name!r}: {message}",
    )
