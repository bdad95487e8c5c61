"""Transform's output to the dense tables that the models read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf
import tensorflow_transform as tft

from twotower.features.encoding import PAD, Encoding, encodings, vocabulary_keys
from twotower.features.preprocessing import ITEM_VOCABULARY, USER_VOCABULARY
from twotower.features.promotions import END, START, Promotions, feature_types, strength_key
from twotower.features.records import context_columns
from twotower.features.spec import Spec
from twotower.features.timelines import Timelines
from twotower.models.tables import Catalogue, Users

BATCH = 1024


class Transformed:
    """The transformed examples of a run, by split, and the vocabularies.

    Args:
        spec: what was transformed.
        graph: folder of Transform's ``transform_graph`` artifact.
        examples: folder of its ``transformed_examples`` artifact.
    """

    def __init__(self, spec: Spec, graph: str, examples: str) -> None:
        self._spec = spec
        self._examples = examples
        self.output = tft.TFTransformOutput(graph)
        self._feature_spec = self.output.transformed_feature_spec()
        sizes = {key: self.output.vocabulary_size_by_name(key) for key in vocabulary_keys(spec)}
        self.item_encodings = encodings("item", spec.item_features, sizes)
        self.query_encodings = [
            *encodings("user", spec.user_features, sizes),
            *encodings("context", spec.context, sizes),
        ]
        self.n_users: int = self.output.vocabulary_size_by_name(USER_VOCABULARY)

    def item_ids(self) -> npt.NDArray[np.object_]:
        """[n] the catalogue's ids as bytes, in vocabulary order."""
        return np.array(self.output.vocabulary_by_name(ITEM_VOCABULARY), dtype=object)

    @property
    def item_ids_file(self) -> Path:
        """The catalogue's ids in vocabulary order, one a line."""
        return Path(self.output.vocabulary_file_by_name(ITEM_VOCABULARY))

    def names(self, feature: str) -> list[str]:
        """The known values of a category feature, such as ``user_age``, in the order of their indices."""
        return [value.decode() for value in self.output.vocabulary_by_name(feature)]

    def vocabularies(self) -> dict[str, list[bytes]]:
        """Every vocabulary's tokens in its order: of the users, the items, and each feature that has one."""
        names = (USER_VOCABULARY, ITEM_VOCABULARY, *vocabulary_keys(self._spec))
        return {name: list(self.output.vocabulary_by_name(name)) for name in names}

    def catalogue(self) -> Catalogue:
        """Every item of the vocabulary, in its order.

        Raises:
            ValueError: the items split does not hold each item of the vocabulary once.
        """
        table = self._spec.promotions
        names = [*(encoding.name for encoding in self.item_encodings), *feature_types(table)]
        read = self._read("items", ["item_id", *names])
        ids = self.item_ids()
        rows = read["item_id"].values.numpy()
        order = np.argsort(rows)
        if not np.array_equal(rows[order], np.arange(len(ids))):
            raise ValueError(f"the items split holds {len(rows)} items, expected each of the {len(ids)} once")
        features = {e.name: dense(read[e.name], e)[order] for e in self.item_encodings}
        promotions = None
        if table is not None:
            lengths = read[START].row_lengths().numpy()
            strengths = {name: read[strength_key(name)].values.numpy() for name in table.names}
            starts, ends = (read[key].values.numpy() for key in (START, END))
            promotions = Promotions(np.repeat(rows, lengths).astype(np.int32), starts, ends, strengths)
        return Catalogue(ids, features, self.item_encodings, promotions)

    def users(self, split: str) -> Users:
        """The users of the split ``train`` or ``eval`` with their histories, and labels where there are any."""
        context = [f"context_{name}" for name in context_columns(self._spec.context)]
        tables = [e for e in self.query_encodings if e.name.startswith("user_")]
        history = ("history_item_id", "history_time", "history_quantity")
        labels = ("label_item_id", "label_time", "label_quantity")
        read = self._read(split, ["user_key", "user_id", *(e.name for e in tables), *history, *labels, *context])
        return Users(
            ids=read["user_key"].values.numpy(),
            rows=read["user_id"].values.numpy(),
            features={e.name: dense(read[e.name], e) for e in tables},
            encodings=self.query_encodings,
            history=_timelines(*(read[name] for name in history)),
            context={name: read[name].values.numpy() for name in context},
            labels=_timelines(*(read[name] for name in labels)),
        )

    def asked(self) -> Users:
        """The test users who are asked: all, or ``evaluation.max_users`` of them, drawn by the spec's seed."""
        users, most = self.users("eval"), self._spec.evaluation.max_users
        if len(users) <= most:
            return users
        return users.select(np.sort(np.random.default_rng(self._spec.seed).permutation(len(users))[:most]))

    def _read(self, split: str, names: Sequence[str]) -> dict[str, tf.RaggedTensor]:
        """Columns of a split by name, ragged [examples, (values)]."""
        wanted = {
            name: tf.io.RaggedFeature(self._feature_spec[name].dtype, row_splits_dtype=tf.int64) for name in names
        }
        files = sorted(str(file) for file in Path(self._examples, f"Split-{split}").glob("*"))
        records = tf.data.TFRecordDataset(files, compression_type="GZIP").batch(BATCH)
        parts = [tf.io.parse_example(batch, wanted) for batch in records]
        return {name: tf.concat([part[name] for part in parts], axis=0) for name in names}


def dense(column: tf.RaggedTensor, encoding: Encoding) -> npt.NDArray[np.generic]:
    """[n] or [n, width] as ``Encoding.form`` says; missing values get their stand-in."""
    if encoding.form == "indices":
        return np.asarray(column.to_tensor(PAD))
    if encoding.form == "vector":
        return np.asarray(column.to_tensor(0.0, shape=[None, encoding.size]))
    missing = encoding.size - 1 if encoding.form == "index" else 0
    return np.asarray(column.to_tensor(tf.cast(missing, column.dtype), shape=[None, 1])[:, 0])


def _timelines(items: tf.RaggedTensor, times: tf.RaggedTensor, quantities: tf.RaggedTensor) -> Timelines:
    return Timelines(
        items.row_splits.numpy(), items.values.numpy().astype(np.int32), times.values.numpy(), quantities.values.numpy()
    )
