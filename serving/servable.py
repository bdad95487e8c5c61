"""Composing, saving and loading the recommender SavedModel, with its warm-up records and model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from twotower.serving.recommender import Recommender, Signatures

CARD = "assets.extra/model_card.json"
WARM_UP = "assets.extra/tf_serving_warmup_requests"

SIGNATURES = {
    "recommend": "the ranked list: retrieved and own items, ranked; also the default signature",
    "recommend_timed": "the same, and the milliseconds that each stage took",
    "candidates": "the first stage of two: the items to rank, retrieved and own; also the default signature",
    "candidates_timed": "the same, and the milliseconds that each stage took",
    "order": "the second stage of two: the ranked list of given candidates; also the default signature",
    "order_timed": "the same, and the milliseconds that each stage took",
    "retrieve": "the first stage's list and its scores",
    "rank": "the ranker's scores of the given candidates",
    "similar_items": "the nearest items by the cosine of their embeddings",
    "embed_query": "the query tower's vector",
    "embed_items": "the candidate tower's vector of raw item features, new items too",
}


def save(recommender: Recommender, signatures: Signatures, folder: Path, card: Mapping[str, object]) -> None:
    """Write the SavedModel, a warm-up request a signature, and ``card`` with the signatures' documentation.

    Args:
        recommender: all that the signatures read.
        signatures: those of the whole recommender, or of one of its stages.
        folder: where to.
        card: what else the model card says.
    """
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
    tf.saved_model.save(recommender, str(folder), signatures=signatures, options=options)
    _share_tensors(folder / "saved_model.pb", signatures)
    (folder / WARM_UP).parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / WARM_UP)) as writer:
        for name, function in signatures.items():
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.CopyFrom(_request(name, function))
            writer.write(log.SerializeToString())
    described = {
        name: {
            "what": SIGNATURES[name],
            "inputs": _shapes(function.structured_input_signature[1]),
            "outputs": _shapes(function.structured_outputs),
        }
        for name, function in signatures.items()
        if name in SIGNATURES
    }
    text = json.dumps({**card, "signatures": described}, indent=1)
    (folder / CARD).write_text(text, encoding="utf-8")


def _share_tensors(path: Path, signatures: Mapping[str, tf.types.experimental.ConcreteFunction]) -> None:
    """Lets signatures of one function (such as the default one) name the same tensors of the graph.

    A server optimises a graph for each set of tensors on its first run, which takes seconds: it is paid once then.
    """
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    [meta_graph] = saved.meta_graphs
    for name, function in signatures.items():
        first = next(other for other, same in signatures.items() if same is function)
        meta_graph.signature_def[name].CopyFrom(meta_graph.signature_def[first])
    path.write_bytes(saved.SerializeToString())


def load(folder: Path) -> tf.Module:
    """The SavedModel in this process, ScaNN's ops registered where it needs them.

    Raises:
        FileNotFoundError: there is no SavedModel in ``folder``.
    """
    model = folder / "saved_model.pb"
    if not model.is_file():
        raise FileNotFoundError(f"{folder}: no SavedModel (saved_model.pb)")
    if b"Scann>" in model.read_bytes():
        from scann.scann_ops.py import scann_ops  # noqa: F401
    return tf.saved_model.load(str(folder))


def card(folder: Path) -> dict[str, object]:
    """The model card of a saved recommender."""
    found: dict[str, object] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return found


def _shapes(tensors: Mapping[str, tf.TensorSpec]) -> dict[str, str]:
    return {name: f"{spec.dtype.name} {spec.shape}" for name, spec in tensors.items()}


def _request(name: str, function: tf.types.experimental.ConcreteFunction) -> predict_pb2.PredictRequest:
    """A request of one unknown row, which touches every op of the signature."""
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = name
    for key, spec in function.structured_input_signature[1].items():
        shape = [1 if size is None else size for size in spec.shape]
        if spec.dtype == tf.string:
            value: object = np.full(shape, b"", dtype=object)
        else:
            value = np.full(shape, 1 if key == "k" else 0, dtype=spec.dtype.as_numpy_dtype)
        request.inputs[key].CopyFrom(tf.make_tensor_proto(value, dtype=spec.dtype, shape=shape))
    return request
