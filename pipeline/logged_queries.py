"""Logged requests for lists as raw examples: what ingest would have written of the same users.

So one TFDV reads both. What counts as missing, how much of a sequence is kept, and which events count is as in the
graph that answered (``serving/requests.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features.records import Record, context_columns
from twotower.features.spec import SequenceFeature, Spec
from twotower.pipeline.prediction_logs import Logged

SIGNATURES = ("", "serving_default", "recommend")
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Query:
    """One user's row of a request.

    Attributes:
        user_id: as sent; empty where nobody is named.
        time: unix seconds; 0 where the request has none.
        record: raw features by the names of ingest's examples.
    """

    user_id: bytes
    time: int
    record: Record


def queries(logged: Logged, spec: Spec) -> list[Query]:
    """The rows of a logged request; none where it is not one for a list of a recommender.

    Raises:
        InputError: an input is no tensor, or has not one row a user; it names file and record.
    """
    request = logged.log.predict_log.request
    if request.model_spec.signature_name not in SIGNATURES or "history_item_ids" not in request.inputs:
        return []
    inputs = {}
    for name, tensor in request.inputs.items():
        try:
            inputs[name] = tf.make_ndarray(tensor)
        except (TypeError, ValueError):
            raise logged.fault(f"input '{name}': no tensor of its type and shape") from None
    history = inputs["history_item_ids"]
    for name, shape in {"user_id": 1, "time": 1, "history_times": 2}.items():
        if name not in inputs or inputs[name].shape != history.shape[:shape]:
            found = inputs[name].shape if name in inputs else "none"
            raise logged.fault(f"input '{name}': found shape {found}, expected {history.shape[:shape]}")
    features = _features(inputs, spec)
    for name, (values, _) in features.items():
        if values.shape[:1] != history.shape[:1]:
            raise logged.fault(f"input '{name}': found {values.shape[:1]} rows, expected {history.shape[:1]}")
    return [_query(row, inputs, features, spec) for row in range(len(history))]


def _features(inputs: Mapping[str, Array], spec: Spec) -> dict[str, tuple[Array, int | None]]:
    """The users' features that were sent, and how many values of each count."""
    return {
        f"user_{name}": (inputs[f"user_{name}"], feature.max_length if isinstance(feature, SequenceFeature) else None)
        for name, feature in spec.user_features.items()
        if f"user_{name}" in inputs
    }


def _query(
    row: int, inputs: Mapping[str, Array], features: Mapping[str, tuple[Array, int | None]], spec: Spec
) -> Query:
    user_id, time = inputs["user_id"][row], int(inputs["time"][row])
    record: Record = {"user_id": [user_id] if user_id else []}
    for name, (values, longest) in features.items():
        record[name] = _present(np.atleast_1d(values[row])[:longest].tolist())
    events = zip(inputs["history_item_ids"][row].tolist(), inputs["history_times"][row].tolist(), strict=True)
    record["history_item_id"] = [item for item, then in events if item and (then < time or time <= 0)]
    for name in context_columns(spec.context):
        # Ingest leaves a missing one empty too, because every event has one.
        key = f"context_{name}"
        record[key] = [inputs[key][row] if key in inputs else b""]
    return Query(user_id, time, record)


def _present(values: Sequence[Any]) -> list[Any]:
    """Without empty strings, NaN and zero times; a number of 0 is a number."""
    return [value for value in values if (not math.isnan(value) if isinstance(value, float) else value)]
