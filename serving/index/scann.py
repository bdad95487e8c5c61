"""Approximate search by ScaNN's TensorFlow ops, for servers that have them."""

import hashlib

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from scann.proto import scann_pb2
from scann.scann_ops.py import scann_ops

from twotower.features.section import Precision
from twotower.models.quantized import gather
from twotower.serving.index.base import FloatMatrix, Index
from twotower.serving.index.probing import fewest, num_leaves, recall, true_rows, tune

ANISOTROPIC_THRESHOLD = 0.2
DIMS_PER_BLOCK = 2
TRAINING_ROWS = 100_000
GENEROUS_REORDER = 10
PARALLEL_FROM = 32


class ScannIndex(Index):
    """Partitions, scores the probed leaves' rows by quantised products, and scores the best again exactly.

    The method: Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector Quantization", ICML 2020.
    A process that loads the saved index imports ``scann.scann_ops.py.scann_ops`` first; saving needs
    ``tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])``.

    The variables hold the vectors once on disk, as floats or as 8-bit numbers with a scale a column; in memory ScaNN
    makes its own copy of them on the first search, one for all functions of a loaded model. A query's answer does not
    depend on its batch, but for rounding.
    """

    def __init__(
        self, embeddings: FloatMatrix, *, seed: int, wanted: float, queries: FloatMatrix, precision: Precision
    ) -> None:
        """Builds the searcher and finds the settings that reach the wanted recall on ``queries`` [m, dim]."""
        super().__init__(*embeddings.shape)
        self._int8 = precision != "float32"
        searcher = _build_searcher(embeddings, num_leaves(self.size), seed, self._int8)
        self._state = searcher.serialize_to_module()
        tf.raw_ops.DestroyResourceOp(resource=searcher.searcher_handle)
        self._shared_name = "scann-" + _digest(self._state)

        truth = true_rows(self.embeddings(tf.range(self.size)).numpy(), queries)

        def recall_of(k: int, leaves: int, reorder: int) -> float:
            _, found = self._probe(queries, tf.constant(k), leaves, min(self.size, reorder * k))
            return recall(found.numpy(), truth[k])

        leaf_sizes = np.bincount(self._state.datapoint_to_token.numpy(), minlength=num_leaves(self.size))
        self.probing = tune(leaf_sizes, lambda k, leaves: recall_of(k, leaves, GENEROUS_REORDER), wanted)
        self._reorder = max(
            fewest(range(1, GENEROUS_REORDER + 1), lambda r, k=k, n=n: recall_of(k, n, r), wanted)  # type: ignore[misc]
            for k, n in zip(self.probing.ks, self.probing.leaves, strict=True)
        )

    def embeddings(self, rows: tf.Tensor) -> tf.Tensor:
        """See ``Index.embeddings``."""
        if self._int8:
            return tf.cast(gather(self._state.int8_dataset, rows), tf.float32) / self._state.int8_multipliers
        return gather(self._state.dataset, rows)

    def _search(self, queries: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        reorder = tf.minimum(self.size, self._reorder * tf.maximum(k, self.probing.ks[0]))
        return self._probe(queries, k, self.probing.leaves_for(k), reorder)

    def _probe(
        self, queries: tf.Tensor, k: tf.Tensor, leaves: tf.Tensor, reorder: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        state = self._state
        # Without the shared name every function that searches would make a searcher of its own.
        handle = scann_ops.tensors_to_scann(
            state.dataset,
            state.scann_config,
            state.serialized_partitioner,
            state.datapoint_to_token,
            state.ah_codebook,
            state.hashed_dataset,
            state.int8_dataset,
            state.int8_multipliers,
            state.dp_norms,
            shared_name=self._shared_name,
        )
        parallel = tf.shape(queries)[0] >= PARALLEL_FROM
        rows, scores = scann_ops.scann_search_batched(handle, queries, k, reorder, leaves, parallel)
        # Lists shorter than the batch's longest are filled with row 0 and score NaN.
        missing = tf.math.is_nan(scores)
        return tf.where(missing, float("-inf"), scores), tf.where(missing, -1, rows)


def _build_searcher(embeddings: FloatMatrix, leaves: int, seed: int, int8: bool) -> scann_ops.ScannSearcher:
    def create(db: FloatMatrix, config: str, threads: int, **_: object) -> scann_ops.ScannSearcher:
        # The builder has no seeds; the configuration that it writes has.
        seeded = text_format.Parse(config, scann_pb2.ScannConfig())
        seeded.partitioning.clustering_seed = seed
        seeded.hash.asymmetric_hash.clustering_seed = seed
        seeded.hash.asymmetric_hash.sampling_seed = seed
        return scann_ops.create_searcher(db, text_format.MessageToString(seeded), threads)

    builder = scann_ops.builder(embeddings, 100, "dot_product")
    # ScaNN's random initialisation ignores the seed; k-means++ does not.
    builder.tree(leaves, leaves, training_sample_size=max(TRAINING_ROWS, 64 * leaves), random_init=False)
    builder.score_ah(DIMS_PER_BLOCK, anisotropic_quantization_threshold=ANISOTROPIC_THRESHOLD)
    builder.reorder(1_000, quantize=int8)
    return builder.set_builder_lambda(create).build()


def _digest(state: scann_ops.ScannState) -> str:
    digest = hashlib.sha256()
    for tensor in (
        state.scann_config,
        state.serialized_partitioner,
        state.hashed_dataset,
        state.dataset,
        state.int8_dataset,
    ):
        value = tensor.numpy()
        digest.update(b"".join(value.ravel()) if value.dtype == object else value.tobytes())
    return digest.hexdigest()
