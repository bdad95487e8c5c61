"""Calling loaded servables in process: what a signature takes, batches of requests as tensors, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

# The signatures that answer together where the stages are two.
STAGES = ("candidates", "order")


def inputs(models: Sequence[Any], name: str) -> Mapping[str, tf.TensorSpec]:
    """The inputs of a signature, or of both stages' parts of ``recommend``, but for the candidates."""
    if len(models) == 1 or name != "recommend":
        return dict(models[0].signatures[name].structured_input_signature[1])
    first, second = (
        model.signatures[part].structured_input_signature[1] for model, part in zip(models, STAGES, strict=True)
    )
    return {key: spec for key, spec in {**second, **first}.items() if key != "candidate_item_ids"}


def call(models: Sequence[Any], name: str, request: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
    """The answer of a signature; ``recommend`` of two stages is what the second makes of the first one's candidates."""
    if len(models) == 1 or name != "recommend":
        return dict(models[0].signatures[name](**request))
    first, second = (model.signatures[part] for model, part in zip(models, STAGES, strict=True))
    found = first(**{key: request[key] for key in first.structured_input_signature[1]})
    given = {**request, "candidate_item_ids": found["item_ids"]}
    return dict(second(**{key: given[key] for key in second.structured_input_signature[1]}))


def request(
    spec: Mapping[str, tf.TensorSpec], rows: Sequence[Mapping[str, Sequence[Any]]], k: int
) -> dict[str, tf.Tensor]:
    """b requests as tensors by input name.

    Args:
        spec: what the signature takes.
        rows: b requests, each its values by input name; what is not there is missing: "", NaN or 0.
        k: length of the lists.
    """
    batch: dict[str, tf.Tensor] = {}
    for key, wanted in spec.items():
        if key == "k":
            batch[key] = tf.constant(k, tf.int32)
            continue
        dtype, is_list = wanted.dtype, wanted.shape.rank == 2
        values = [row.get(key, ()) for row in rows]
        # A vector is as wide as its input says, also where nobody has one.
        width = (wanted.shape[1] or max(1, *map(len, values))) if is_list else 1
        missing = b"" if dtype == tf.string else np.nan if dtype.is_floating else 0
        filled = [[*each[:width], *[missing] * (width - len(each))] for each in values]
        table = tf.constant(filled, dtype)
        batch[key] = table if is_list else table[:, 0]
    return batch
