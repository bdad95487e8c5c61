"""The one tf.Transform graph, made from the spec; the same graph is inside every exported model.

Raw examples are either users (a timeline: ``user_*``, ``history_*``, ``context_*``, and in the eval split
``label_*``) or items (``item_*``, ``promotion_*``); a feature that an example lacks is empty. Requests use the same
names.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
import tensorflow_transform as tft

from twotower.features import promotions
from twotower.features import spec as specs
from twotower.features.spec import Feature, Spec

Outputs = dict[str, tf.SparseTensor]

ITEM_VOCABULARY = "item_id"
USER_VOCABULARY = "user_id"


def raw_feature_types(spec: Spec) -> dict[str, tf.DType]:
    """The raw examples' features and their types; all are variable-length."""
    types = {
        "user_id": tf.string,
        "item_id": tf.string,
        "history_item_id": tf.string,
        "history_time": tf.int64,
        "history_quantity": tf.float32,
        "label_item_id": tf.string,
        "label_time": tf.int64,
        "label_quantity": tf.float32,
    }
    groups: list[tuple[str, Mapping[str, Feature]]] = [("user", spec.user_features), ("item", spec.item_features)]
    for prefix, features in groups:
        types |= {f"{prefix}_{name}": raw_type(feature) for name, feature in features.items()}
    # Time features of the context are computed from the event's own time.
    columns = {name: feature for name, feature in spec.context.items() if not isinstance(feature, specs.TimeFeature)}
    types |= {f"context_{name}": tf.string for name in columns}
    return types | promotions.feature_types(spec.promotions)


def raw_type(feature: Feature) -> tf.DType:
    """The raw type of one feature: string, int64 (unix seconds) or float32."""
    match feature:
        case specs.NumberFeature() | specs.VectorFeature():
            return tf.float32
        case specs.TimeFeature():
            return tf.int64
        case _:
            return tf.string


def preprocessing_fn(inputs: Mapping[str, tf.SparseTensor], custom_config: Mapping[str, str]) -> Outputs:
    """Transform's entry point: sparse [b, n] inputs to sparse [b, n] outputs, named as in ``encoding``.

    ``custom_config["spec"]`` is the spec as JSON.
    """
    spec = Spec.model_validate_json(custom_config["spec"])
    outputs: Outputs = {}
    # The catalogue is the item vocabulary: histories and labels are looked up in it, never added to it.
    item_vocabulary = tft.vocabulary(inputs["item_id"], vocab_filename=ITEM_VOCABULARY)
    for key in ("item_id", "history_item_id", "label_item_id"):
        outputs[key] = _lookup(inputs[key], item_vocabulary)
    outputs["user_id"] = _lookup(inputs["user_id"], tft.vocabulary(inputs["user_id"], vocab_filename=USER_VOCABULARY))
    as_they_are = ("history_time", "history_quantity", "label_time", "label_quantity")
    for key in (*as_they_are, *promotions.feature_types(spec.promotions)):
        outputs[key] = inputs[key]
    outputs["user_key"] = inputs["user_id"]
    for prefix, features in (("user", spec.user_features), ("item", spec.item_features)):
        for name, feature in features.items():
            outputs |= _transform(f"{prefix}_{name}", feature, inputs[f"{prefix}_{name}"])
    for name, feature in spec.context.items():
        if not isinstance(feature, specs.TimeFeature):
            outputs |= _transform(f"context_{name}", feature, inputs[f"context_{name}"])
    return outputs


def time_part(seconds: tf.Tensor, part: str) -> tf.Tensor:
    """Hour (0-23), weekday (0 = Monday) or month (0-11) of unix seconds, UTC; int64 of the same shape."""
    days = tf.math.floordiv(seconds, 86_400)
    if part == "hour":
        return tf.math.floordiv(tf.math.floormod(seconds, 86_400), 3_600)
    if part == "weekday":
        return tf.math.floormod(days + 3, 7)
    # Month of a civil date, after Howard Hinnant's days_from_civil (public domain).
    day_of_era = tf.math.floormod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    return tf.math.floormod((5 * day_of_year + 2) // 153 + 2, 12)


def tokenize(texts: tf.Tensor, hash_buckets: int, max_tokens: int) -> tf.RaggedTensor:
    """Lower-cased words and numbers of [n] strings, hashed: ragged [n, <= max_tokens] int64."""
    words = tf.strings.split(tf.strings.regex_replace(tf.strings.lower(texts, encoding="utf-8"), r"[^\pL\pN]+", " "))
    words = words[:, :max_tokens]
    return words.with_flat_values(tf.strings.to_hash_bucket_fast(words.flat_values, hash_buckets))


def _lookup(values: tf.SparseTensor, vocabulary: tf.Tensor) -> tf.SparseTensor:
    return tft.apply_vocabulary(values, vocabulary, num_oov_buckets=1)


def _transform(key: str, feature: Feature, values: tf.SparseTensor) -> Outputs:
    match feature:
        case specs.CategoryFeature() | specs.SequenceFeature():
            threshold = feature.min_count if feature.min_count > 1 else None
            vocabulary = tft.vocabulary(values, vocab_filename=key, frequency_threshold=threshold)
            return {key: _lookup(values, vocabulary)}
        case specs.NumberFeature():
            if feature.log:
                values = values.with_values(tf.math.log1p(tf.maximum(values.values, 0.0)))
            boundaries = tft.quantiles(values.values, feature.buckets, epsilon=0.001)
            return {
                key: values.with_values(tft.scale_to_z_score(values.values)),
                f"{key}_bucket": values.with_values(tft.apply_buckets(values.values, boundaries)),
            }
        case specs.TextFeature():
            # One text an example: the values' rows become the tokens' rows.
            tokens = tokenize(values.values, feature.hash_buckets, feature.max_tokens)
            rows = tf.gather(values.indices[:, 0], tokens.value_rowids())
            columns = tf.cast(tf.ragged.range(tokens.row_lengths()).flat_values, tf.int64)
            shape = tf.stack([values.dense_shape[0], tf.constant(feature.max_tokens, tf.int64)])
            return {key: tf.SparseTensor(tf.stack([rows, columns], axis=1), tokens.flat_values, shape)}
        case specs.VectorFeature():
            return {key: values}
        case specs.TimeFeature():
            return {key: values.with_values(time_part(values.values, feature.part))}
