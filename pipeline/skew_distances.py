"""Training beside serving, feature by feature: TFDV's distances, and the shares of what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2, statistics_pb2

from twotower.features.preprocessing import raw_type
from twotower.features.records import context_columns
from twotower.features.spec import Spec

Statistics: TypeAlias = statistics_pb2.DatasetFeatureStatisticsList
ITEMS, LENGTH = "history_item_id", "history_length"
UNKNOWN_ITEMS, UNKNOWN_USERS = "unknown_items", "unknown_users"
# Shares and both distances lie in [0, 1]. A threshold is for the distance and for the difference of the missing shares.
THRESHOLD = 0.1
# Ids that the model has not seen get an answer that was trained for; few shops know everybody who asks.
THRESHOLDS = {UNKNOWN_USERS: 0.5}


@dataclass(frozen=True)
class Difference:
    """How one feature differs.

    Attributes:
        feature: its name in ingest's examples.
        training_missing, serving_missing: share of the users and of the queries without it; of a context, of the
            events and of the queries. None for shares of unknown ids. Of drift: the last run's, and this run's.
        measure: what the distance is.
        distance: between the values, in [0, 1]; None where one side has none.
        threshold: what neither the distance nor the difference of the missing shares may pass.
        verdict: ``ok``, or what is wrong.
    """

    feature: str
    training_missing: float | None
    serving_missing: float | None
    measure: str
    distance: float | None
    threshold: float
    verdict: str

    @property
    def passed(self) -> bool:
        """Whether nothing passes the threshold."""
        return self.verdict == "ok"


def compared_features(spec: Spec) -> dict[str, tf.DType]:
    """The features that are compared, and the types of their values; `LENGTH` is derived from the histories'."""
    types = {f"user_{name}": raw_type(feature) for name, feature in spec.user_features.items()}
    types |= {f"context_{name}": tf.string for name in context_columns(spec.context)}
    return types | {ITEMS: tf.string, LENGTH: tf.float32}


def differences(
    spec: Spec, training: Statistics, serving: Statistics, thresholds: Mapping[str, float]
) -> list[Difference]:
    """Training beside serving.

    Args:
        spec: with the retrieval and the ranking section.
        training: of ingest's train split.
        serving: of ``logged_queries``.
        thresholds: by feature, instead of the default.
    """
    longest = max(spec.ranking.history_length, spec.retrieval.history_length)
    training, serving = with_lengths(training, longest), with_lengths(serving, longest)
    return distances(compared_features(spec), training, serving, thresholds, THRESHOLD)


def distances(
    features: Mapping[str, tf.DType],
    base: Statistics,
    other: Statistics,
    thresholds: Mapping[str, float],
    default: float,
) -> list[Difference]:
    """Compare by TFDV: L-infinity of the shares of strings, Jensen-Shannon divergence of the histograms of numbers.

    Args:
        features: the names, and the types of the values.
        base: what is expected.
        other: what is held against it.
        thresholds: by feature.
        default: of features without one.
    """
    schema = schema_pb2.Schema()
    for name, kind in features.items():
        numeric = kind != tf.string
        type_ = {tf.string: schema_pb2.BYTES, tf.int64: schema_pb2.INT}.get(kind, schema_pb2.FLOAT)
        comparator = schema.feature.add(name=name, type=type_).drift_comparator
        measure = comparator.jensen_shannon_divergence if numeric else comparator.infinity_norm
        measure.threshold = thresholds.get(name, default)
    found = tfdv.validate_statistics(other, schema, previous_statistics=base)
    values = {
        # The divergence of equal histograms may come out a rounding error below 0.
        info.path.step[0]: max(0.0, measurement.value)
        for info in found.drift_skew_info
        for measurement in info.drift_measurements
    }
    return [
        _difference(
            feature.name,
            (missing_share(base, feature.name), missing_share(other, feature.name)),
            "L-infinity" if feature.type == schema_pb2.BYTES else "Jensen-Shannon",
            values.get(feature.name),
            thresholds.get(feature.name, default),
        )
        for feature in schema.feature
    ]


def unknown_ids(name: str, unknown: int, total: int, thresholds: Mapping[str, float]) -> Difference:
    """The share of unknown ids, which is 0 in training; ``name`` is `UNKNOWN_ITEMS` or `UNKNOWN_USERS`."""
    share = unknown / total if total else None
    threshold = thresholds.get(name, THRESHOLDS.get(name, THRESHOLD))
    verdict = "ok" if share is None or share <= threshold else "not known"
    return Difference(name, None, None, "share", share, threshold, verdict)


def missing_share(statistics: Statistics, name: str) -> float:
    """The share of the examples without the feature; of a context, of the values that are empty."""
    feature = _feature(statistics, name)
    if feature is None:
        return 1.0
    common = feature.num_stats.common_stats if feature.HasField("num_stats") else feature.string_stats.common_stats
    if not name.startswith("context_"):
        return float(1 - common.num_non_missing / statistics.datasets[0].num_examples)
    empty = sum(bucket.sample_count for bucket in feature.string_stats.rank_histogram.buckets if not bucket.label)
    return float(empty / common.tot_num_values) if common.tot_num_values else 1.0


def with_lengths(statistics: Statistics, longest: int) -> Statistics:
    """The statistics and, as a number's, how many events the histories have, those beyond ``longest`` not counted.

    The histogram of lengths is there already, as one of quantiles. TFDV compares those of values alone.
    """
    more = Statistics()
    more.CopyFrom(statistics)
    items = _feature(statistics, ITEMS)
    if items is not None and items.string_stats.common_stats.num_non_missing:
        lengths = more.datasets[0].features.add(type=statistics_pb2.FeatureNameStatistics.FLOAT)
        lengths.path.step.append(LENGTH)
        common = items.string_stats.common_stats
        lengths.num_stats.common_stats.CopyFrom(common)
        lengths.num_stats.common_stats.tot_num_values = common.num_non_missing
        histogram = lengths.num_stats.histograms.add()
        histogram.CopyFrom(common.num_values_histogram)
        histogram.type = statistics_pb2.Histogram.STANDARD
        for bucket in histogram.buckets:
            bucket.low_value, bucket.high_value = min(bucket.low_value, longest), min(bucket.high_value, longest)
    return more


def _feature(statistics: Statistics, name: str) -> statistics_pb2.FeatureNameStatistics | None:
    return next((f for f in statistics.datasets[0].features if list(f.path.step) == [name]), None)


def _difference(
    name: str, missing: tuple[float, float], measure: str, distance: float | None, threshold: float
) -> Difference:
    training, serving = missing
    faults = []
    if abs(serving - training) > threshold:
        faults.append("missing more often" if serving > training else "missing less often")
    if distance is not None and distance > threshold:
        faults.append("other values")
    return Difference(name, training, serving, measure, distance, threshold, ", ".join(faults) or "ok")
