"""What each feature looks like after Transform: the contract between the tf.Transform graph and the models.

A spec feature becomes one or two encodings. Padding of the ragged ones is ``PAD``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from twotower.features.spec import (
    CategoryFeature,
    Feature,
    NumberFeature,
    SequenceFeature,
    Spec,
    TextFeature,
    TimeFeature,
    VectorFeature,
)

PAD = -1
TIME_PART_SIZES = {"hour": 24, "weekday": 7, "month": 12}


@dataclass(frozen=True)
class Encoding:
    """One transformed feature.

    Attributes:
        name: key of the transformed tensor, such as ``item_price_bucket``.
        form: ``index`` [b] int64; ``indices`` [b, n] int64 padded with ``PAD``; ``number`` [b] float32;
            ``vector`` [b, size] float32.
        size: number of distinct indices (the last one is "unknown or missing"), or a vector's length.
    """

    name: str
    form: Literal["index", "indices", "number", "vector"]
    size: int


def encodings(prefix: str, features: Mapping[str, Feature], vocabulary_sizes: Mapping[str, int]) -> list[Encoding]:
    """The encodings of ``features``.

    Args:
        prefix: ``user``, ``item`` or ``context``.
        features: by name, as in the spec.
        vocabulary_sizes: number of known values of each category and sequence feature, by ``prefix_name``.
    """
    found: list[Encoding] = []
    for name, feature in features.items():
        key = f"{prefix}_{name}"
        match feature:
            case CategoryFeature():
                found.append(Encoding(key, "index", vocabulary_sizes[key] + 1))
            case NumberFeature():
                found.append(Encoding(key, "number", 1))
                found.append(Encoding(f"{key}_bucket", "index", feature.buckets + 1))
            case TextFeature():
                found.append(Encoding(key, "indices", feature.hash_buckets))
            case SequenceFeature():
                found.append(Encoding(key, "indices", vocabulary_sizes[key] + 1))
            case VectorFeature():
                found.append(Encoding(key, "vector", feature.size))
            case TimeFeature():
                found.append(Encoding(key, "index", TIME_PART_SIZES[feature.part] + 1))
    return found


def vocabulary_keys(spec: Spec) -> list[str]:
    """Keys of the features that have a vocabulary, ids apart."""
    groups = {"user": spec.user_features, "item": spec.item_features, "context": spec.context}
    return [
        f"{prefix}_{name}"
        for prefix, features in groups.items()
        for name, feature in features.items()
        if isinstance(feature, CategoryFeature | SequenceFeature)
    ]
