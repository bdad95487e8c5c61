"""Predict replies as lists of scored items and as embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from . import wire_pb2 as wire
from .errors import ServerError
from .tensors import decode
from .types import Embedding, Recommendation, ScoredItem

_TASK_PREFIX = "score_"
_TIME_PREFIX = "ms_"


def item_lists(reply: wire.PredictResponse) -> list[Recommendation]:
    """Read ``item_ids``, ``scores`` and every ``score_<task>``, all [b, k]; padding (an empty id) is left out."""
    item_ids = _output(reply, "item_ids", rank=2)
    shape = item_ids.shape
    scores = _output(reply, "scores", rank=2, shape=shape).tolist()
    tasks = _tasks(reply, shape)
    return [
        Recommendation(
            tuple(
                ScoredItem(item_id.decode(), scores[row][position], {name: task[row][position] for name, task in tasks})
                for position, item_id in enumerate(ids)
                if item_id
            ),
            reply.model_spec.version.value,
            timings(reply, row),
        )
        for row, ids in enumerate(item_ids.tolist())
    ]


def candidate_ids(reply: wire.PredictResponse) -> npt.NDArray[Any]:
    """Read the first stage's ``item_ids`` [b, n] as they are, padding included."""
    return _output(reply, "item_ids", rank=2)


def timings(reply: wire.PredictResponse, row: int) -> dict[str, float]:
    """Read every ``ms_<stage>`` [b] of a row; none where no times were asked for."""
    names = [name for name in sorted(reply.outputs) if name.startswith(_TIME_PREFIX)]
    return {name.removeprefix(_TIME_PREFIX): float(_output(reply, name, rank=1)[row]) for name in names}


def ranked_candidates(reply: wire.PredictResponse, candidates: Sequence[str]) -> Recommendation:
    """Read ``scores`` and every ``score_<task>``, all [1, n], and order the candidates by score.

    Returns:
        All candidates, best first; equal scores keep the order in which they were given.
    """
    shape = (1, len(candidates))
    scores = _output(reply, "scores", rank=2, shape=shape)[0]
    tasks = _tasks(reply, shape)
    values = scores.tolist()
    items = tuple(
        ScoredItem(candidates[place], values[place], {name: task[0][place] for name, task in tasks})
        for place in np.argsort(-scores, kind="stable").tolist()
    )
    return Recommendation(items, reply.model_spec.version.value)


def embedding(reply: wire.PredictResponse, batch: int) -> Embedding:
    """Read ``embedding`` [batch, dim]."""
    values = _output(reply, "embedding", rank=2)
    if len(values) != batch:
        raise _unfit(reply, f"output 'embedding' has shape {values.shape}, expected ({batch}, dim)")
    return Embedding(values.astype(np.float32, copy=False), reply.model_spec.version.value)


def _tasks(reply: wire.PredictResponse, shape: tuple[int, ...]) -> list[tuple[str, list[list[float]]]]:
    return [
        (name.removeprefix(_TASK_PREFIX), _output(reply, name, rank=2, shape=shape).tolist())
        for name in sorted(reply.outputs)
        if name.startswith(_TASK_PREFIX)
    ]


def _output(
    reply: wire.PredictResponse, name: str, rank: int, shape: tuple[int, ...] | None = None
) -> npt.NDArray[Any]:
    if name not in reply.outputs:
        raise _unfit(reply, f"no output {name!r}, it has: {', '.join(sorted(reply.outputs)) or 'none'}")
    try:
        array = decode(reply.outputs[name])
    except ValueError as error:
        raise _unfit(reply, f"output {name!r}: {error}") from error
    if array.ndim != rank or (shape is not None and array.shape != shape):
        raise _unfit(reply, f"output {name!r} has shape {array.shape}, expected {shape or f'rank {rank}'}")
    return array


def _unfit(reply: wire.PredictResponse, message: str) -> ServerError:
    spec = reply.model_spec
    return ServerError(
        grpc.StatusCode.INTERNAL,
        f"reply of {spec.name!r} version {spec.version.value}, signature {spec.signature_name!r}: {message}",
    )
