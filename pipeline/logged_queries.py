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
from twotower.serving.requests import query_spec

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
        InputError: an input is not what the signature takes; it names file and record.
    """
    request = logged.log.predict_log.request
    if request.model_spec.signature_name not in SIGNATURES or "history_item_ids" not in request.inputs:
        return []
    inputs: dict[str, Array] = {}
    for name, expected in query_spec(spec).items():
        # A version that did not know a feature yet was not sent it.
        if name not in request.inputs and name.startswith(("user_", "context_")) and name != "user_id":
            continue
        try:
            inputs[name] = tf.make_ndarray(request.inputs[name])
        except (TypeError, ValueError):
            raise logged.fault(f"input '{name}': none, or no tensor") from None
        found = tf.TensorSpec.from_tensor(tf.constant(inputs[name]))
        if not expected.is_compatible_with(found):
            raise logged.fault(f"input '{name}': found {_shown(found)}, expected {_shown(expected)}")
    rows = {name: len(values) for name, values in inputs.items()}
    if len(set(rows.values())) > 1 or inputs["history_item_ids"].shape != inputs["history_times"].shape:
        raise logged.fault(f"inputs of different numbers of rows or events: {rows}")
    return [_query(row, inputs, spec) for row in range(rows["user_id"])]


def _shown(spec: tf.TensorSpec) -> str:
    return f"{spec.dtype.name} {spec.shape}"


def _query(row: int, inputs: Mapping[str, Array], spec: Spec) -> Query:
    user_id, time = inputs["user_id"][row], int(inputs["time"][row])
    record: Record = {"user_id": [user_id] if user_id else []}
    for name, feature in spec.user_features.items():
        key, longest = f"user_{name}", feature.max_length if isinstance(feature, SequenceFeature) else None
        if key in inputs:
            record[key] = _present(np.atleast_1d(inputs[key][row])[:longest].tolist())
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
