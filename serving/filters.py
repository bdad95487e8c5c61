"""Filters of a request: which items may come back, and how many at most, before anything is searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Protocol

import tensorflow as tf

from twotower.models.row_sets import contains
from twotower.serving.attributes import LabelAttribute, NumberAttribute
from twotower.serving.item_ids import ItemIds

Tensors = Mapping[str, tf.Tensor]

ALLOWED = "allowed_item_ids"


class Filter(Protocol):
    """One rule of which items are allowed; a row that does not use it allows all."""

    def specs(self) -> dict[str, tf.TensorSpec]:
        """Its inputs; what is empty, NaN or 0 in them is no rule."""

    def used(self, inputs: Tensors) -> tf.Tensor:
        """[b] whether each row of the request uses it."""

    def allows(self, inputs: Tensors, rows: tf.Tensor) -> tf.Tensor:
        """[b, n] whether each of the rows [b, n] is allowed."""

    def postings(self, inputs: Tensors) -> tuple[tf.Tensor, Callable[[], tf.Tensor]]:
        """For a request of one row that uses it: how many items it allows, and their rows, each once."""


class LabelFilter(tf.Module):
    """The item's label is one of those given: ``filter_<feature>`` [b, v]."""

    def __init__(self, name: str, attribute: LabelAttribute) -> None:
        super().__init__()
        self._input, self._attribute = f"filter_{name}", attribute

    def specs(self) -> dict[str, tf.TensorSpec]:
        """See ``Filter``."""
        return {self._input: tf.TensorSpec([None, None], tf.string, self._input)}

    def used(self, inputs: Tensors) -> tf.Tensor:
        """See ``Filter``."""
        return tf.reduce_any(tf.strings.length(inputs[self._input]) > 0, axis=1)

    def allows(self, inputs: Tensors, rows: tf.Tensor) -> tf.Tensor:
        """See ``Filter``."""
        wanted = self._attribute.numbers(inputs[self._input])
        return ~self.used(inputs)[:, tf.newaxis] | contains(wanted, self._attribute.of(rows))

    def postings(self, inputs: Tensors) -> tuple[tf.Tensor, Callable[[], tf.Tensor]]:
        """See ``Filter``."""
        wanted = tf.unique(self._attribute.numbers(inputs[self._input])[0])[0]
        known = tf.boolean_mask(wanted, (wanted >= 0) & (wanted < self._attribute.n_labels))
        starts, ends = self._attribute.ranges(known)
        return tf.reduce_sum(ends - starts), lambda: self._attribute.rows(tf.ragged.range(starts, ends).flat_values)


class RangeFilter(tf.Module):
    """The item's number is in a range: ``above_<feature>`` and ``below_<feature>`` [b], both included."""

    def __init__(self, name: str, attribute: NumberAttribute) -> None:
        super().__init__()
        self._above, self._below, self._attribute = f"above_{name}", f"below_{name}", attribute

    def specs(self) -> dict[str, tf.TensorSpec]:
        """See ``Filter``."""
        return {name: tf.TensorSpec([None], tf.float32, name) for name in (self._above, self._below)}

    def used(self, inputs: Tensors) -> tf.Tensor:
        """See ``Filter``."""
        return ~(tf.math.is_nan(inputs[self._above]) & tf.math.is_nan(inputs[self._below]))

    def allows(self, inputs: Tensors, rows: tf.Tensor) -> tf.Tensor:
        """See ``Filter``."""
        least, most = self._limits(inputs)
        values = self._attribute.of(rows)
        inside = (values >= least[:, tf.newaxis]) & (values <= most[:, tf.newaxis])
        return ~self.used(inputs)[:, tf.newaxis] | inside

    def postings(self, inputs: Tensors) -> tuple[tf.Tensor, Callable[[], tf.Tensor]]:
        """See ``Filter``."""
        least, most = self._limits(inputs)
        start, end = self._attribute.range(least[0], most[0])
        return end - start, lambda: self._attribute.rows(tf.range(start, end))

    def _limits(self, inputs: Tensors) -> tuple[tf.Tensor, tf.Tensor]:
        least, most = inputs[self._above], inputs[self._below]
        return tf.where(tf.math.is_nan(least), tf.float32.min, least), tf.where(
            tf.math.is_nan(most), tf.float32.max, most
        )


class AllowList(tf.Module):
    """The item is one of those given: ``allowed_item_ids`` [b, a]."""

    def __init__(self, ids: ItemIds, n_items: int) -> None:
        super().__init__()
        self._ids, self._n_items = ids, n_items

    def specs(self) -> dict[str, tf.TensorSpec]:
        """See ``Filter``."""
        return {ALLOWED: tf.TensorSpec([None, None], tf.string, ALLOWED)}

    def used(self, inputs: Tensors) -> tf.Tensor:
        """See ``Filter``."""
        return tf.reduce_any(tf.strings.length(inputs[ALLOWED]) > 0, axis=1)

    def allows(self, inputs: Tensors, rows: tf.Tensor) -> tf.Tensor:
        """See ``Filter``."""
        return ~self.used(inputs)[:, tf.newaxis] | contains(self._ids.rows(inputs[ALLOWED]), rows)

    def postings(self, inputs: Tensors) -> tuple[tf.Tensor, Callable[[], tf.Tensor]]:
        """See ``Filter``."""
        rows = tf.unique(self._ids.rows(inputs[ALLOWED])[0])[0]
        rows = tf.boolean_mask(rows, rows < self._n_items)
        return tf.size(rows), lambda: rows


def specs(filters: tuple[Filter, ...]) -> dict[str, tf.TensorSpec]:
    """The inputs of all filters."""
    return {name: spec for each in filters for name, spec in each.specs().items()}


def used(filters: tuple[Filter, ...], inputs: Tensors) -> tf.Tensor:
    """[b] whether each row of the request uses any of the filters."""
    return reduce(tf.logical_or, (each.used(inputs) for each in filters))


def allows(filters: tuple[Filter, ...], inputs: Tensors, rows: tf.Tensor) -> tf.Tensor:
    """[b, n] whether all filters allow each of the rows [b, n]."""
    return reduce(tf.logical_and, (each.allows(inputs, rows) for each in filters), tf.ones_like(rows, tf.bool))
