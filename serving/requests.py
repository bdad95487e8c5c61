"""Raw requests to transformed query features, inside the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from twotower.features.encoding import PAD, Encoding
from twotower.features.preprocessing import raw_type, time_part
from twotower.features.spec import Feature, SequenceFeature, Spec, TimeFeature, VectorFeature
from twotower.models.queries import DAY
from twotower.serving.item_ids import ItemIds

Tensors = Mapping[str, tf.Tensor]


def raw_spec(prefix: str, features: Mapping[str, Feature]) -> dict[str, tf.TensorSpec]:
    """Tensor specs of raw features in a request: one value a row, or one list a row."""
    specs = {}
    for name, feature in features.items():
        key = f"{prefix}_{name}"
        width = {SequenceFeature: [None], VectorFeature: [getattr(feature, "size", None)]}.get(type(feature), [])
        specs[key] = tf.TensorSpec([None, *width], raw_type(feature), key)
    return specs


def query_spec(spec: Spec) -> dict[str, tf.TensorSpec]:
    """Tensor specs of a query: the user, the history, the moment and the context."""
    columns = {name: feature for name, feature in spec.context.items() if not isinstance(feature, TimeFeature)}
    return {
        "user_id": tf.TensorSpec([None], tf.string, "user_id"),
        **raw_spec("user", spec.user_features),
        "history_item_ids": tf.TensorSpec([None, None], tf.string, "history_item_ids"),
        "history_times": tf.TensorSpec([None, None], tf.int64, "history_times"),
        "time": tf.TensorSpec([None], tf.int64, "time"),
        **raw_spec("context", columns),
    }


class RequestTransform(tf.Module):
    """Transform's graph, applied to requests.

    Args:
        spec: what was transformed.
        layer: ``TFTransformOutput.transform_features_layer()``.
        query_encodings, item_encodings: what the towers take.
        n_items: size of Transform's item vocabulary.
        ids: the items that a history may name.
        reference_time: end of the training data, unix seconds: "now" for a request without a time.
    """

    def __init__(
        self,
        spec: Spec,
        layer: tf.keras.Model,
        query_encodings: Sequence[Encoding],
        item_encodings: Sequence[Encoding],
        n_items: int,
        ids: ItemIds,
        reference_time: int,
    ) -> None:
        super().__init__()
        self._spec = spec
        self._layer = layer
        self._query_encodings = tuple(query_encodings)
        self._item_encodings = tuple(item_encodings)
        self._n_items = n_items
        self._ids = ids
        self._reference_time = reference_time
        # Ingest keeps no more of a sequence either.
        groups = {"user": spec.user_features, "item": spec.item_features}
        self._longest = {
            f"{prefix}_{name}": feature.max_length
            for prefix, features in groups.items()
            for name, feature in features.items()
            if isinstance(feature, SequenceFeature)
        }

    def items(self, raw: Tensors) -> dict[str, tf.Tensor]:
        """Raw item features by name to what the candidate tower takes."""
        found = self._layer(self._tables(raw))
        return {
            "item_id": _dense(found["item_id"], Encoding("item_id", "index", self._n_items + 1)),
            **{e.name: _dense(found[e.name], e) for e in self._item_encodings},
        }

    def query(self, raw: Tensors) -> dict[str, tf.Tensor]:
        """A raw query to query features with the whole history, most recent first.

        Events at or after the request's time, and without a known item, count as padding.
        """
        times, rows = raw["history_times"], self._ids.rows(raw["history_item_ids"])
        latest = tf.reduce_max(tf.pad(times, [[0, 0], [0, 1]]), axis=1)
        now = tf.where(raw["time"] > 0, raw["time"], tf.maximum(latest + 1, self._reference_time))
        known = (rows < self._ids.size) & (times < now[:, tf.newaxis])
        ages = tf.where(known, tf.cast(now[:, tf.newaxis] - times, tf.float32) / DAY, 0.0)
        # Events of one moment go by their row, so that the order in which they are given does not matter.
        order = tf.argsort(rows, axis=1, stable=True)
        latest_first = tf.gather(tf.where(known, times, times.dtype.min), order, batch_dims=1)
        order = tf.gather(order, tf.argsort(latest_first, axis=1, direction="DESCENDING", stable=True), batch_dims=1)
        asked = {name: values for name, values in raw.items() if name.startswith(("user_", "context_"))}
        # An empty id would count as missing, not as unknown; a line break is in no vocabulary.
        user_ids = raw["user_id"]
        asked["user_id"] = tf.where(tf.strings.length(user_ids) > 0, user_ids, "\n")
        found = self._layer(self._tables(asked))
        features = {
            "user_id": _dense(found["user_id"], None),
            "history_item_id": tf.gather(tf.where(known, rows, self._ids.size), order, batch_dims=1),
            "history_age": tf.gather(ages, order, batch_dims=1),
        }
        for encoding in self._query_encodings:
            if encoding.name in found:
                features[encoding.name] = _dense(found[encoding.name], encoding)
        for name, feature in self._spec.context.items():
            if isinstance(feature, TimeFeature):
                features[f"context_{name}"] = time_part(now, feature.part)
        return features

    def _tables(self, raw: Tensors) -> dict[str, tf.SparseTensor]:
        return {name: _sparse(_as_matrix(values)[:, : self._longest.get(name)]) for name, values in raw.items()}


def _as_matrix(values: tf.Tensor) -> tf.Tensor:
    return values[:, tf.newaxis] if values.shape.rank == 1 else values


def _sparse(values: tf.Tensor) -> tf.SparseTensor:
    """[b, n] without its missing entries: empty strings, NaN and zero times."""
    if values.dtype == tf.string:
        present = tf.strings.length(values) > 0
    elif values.dtype.is_floating:
        present = ~tf.math.is_nan(values)
    else:
        present = values != 0
    indices = tf.where(present)
    return tf.SparseTensor(indices, tf.gather_nd(values, indices), tf.shape(values, tf.int64))


def _dense(values: tf.SparseTensor, encoding: Encoding | None) -> tf.Tensor:
    """[b] or [b, n] as the encoding's form says; missing values get their stand-in."""
    if encoding is None or encoding.form in ("index", "number"):
        missing = encoding.size - 1 if encoding is not None and encoding.form == "index" else 0
        return tf.sparse.to_dense(values, default_value=tf.cast(missing, values.dtype))[:, 0]
    default = PAD if encoding.form == "indices" else 0.0
    dense = tf.sparse.to_dense(values, default_value=tf.cast(default, values.dtype))
    return tf.ensure_shape(dense, [None, encoding.size]) if encoding.form == "vector" else dense
