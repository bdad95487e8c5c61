"""The ids of the items that a servable knows, and their rows."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf


class ItemIds(tf.Module):
    """Ids to rows and back. The servable takes a copy of the file with it.

    Args:
        file: the ids in the order of their rows, one a line, such as a vocabulary of Transform.

    Attributes:
        size: number of ids, n; as a row it stands for an unknown or empty id.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
        self.size = len(lines)
        # Row n is the empty id of padding.
        self._ids = tf.Variable([*lines, b""], trainable=False, name="item_ids", dtype=tf.string)
        self._file = tf.saved_model.Asset(str(file))
        whole_line, number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        lookup = tf.lookup.TextFileInitializer(self._file, tf.string, whole_line, tf.int64, number)
        self._table = tf.lookup.StaticHashTable(lookup, self.size)

    def rows(self, ids: tf.Tensor) -> tf.Tensor:
        """Ids of any shape to rows int32."""
        return tf.cast(self._table.lookup(ids), tf.int32)

    def names(self, rows: tf.Tensor) -> tf.Tensor:
        """Rows [...] to ids."""
        # Reading the variable first would copy every id: nothing else reads it.
        return self._ids.sparse_read(rows)
