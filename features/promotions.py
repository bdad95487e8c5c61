"""When items were, are and will be on promotion, and how strongly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from twotower.features import columns, spec
from twotower.features.columns import Chunk
from twotower.features.records import Record, ids_as_bytes
from twotower.features.timelines import Float32, Int32, Int64

# Raw features of one item by name, [promotions] each.
Part: TypeAlias = dict[str, npt.NDArray[Any]]

# Raw features of an item example beside its strengths; one value a promotion.
START, END = "promotion_start", "promotion_end"


@dataclass(frozen=True)
class Promotions:
    """Promotions of catalogue items, in no order; [n] each.

    Attributes:
        items: catalogue rows.
        starts: first second, unix seconds.
        ends: first second after.
        strengths: by name, how strong each is: 1, or shares of shops, sizes of adverts, discounts.
    """

    items: Int32
    starts: Int64
    ends: Int64
    strengths: Mapping[str, Float32]


def feature_types(table: spec.Promotions | None) -> dict[str, tf.DType]:
    """The raw features that promotions add to item examples."""
    if table is None:
        return {}
    return {START: tf.int64, END: tf.int64, **{strength_key(name): tf.float32 for name in table.names}}


def strength_key(name: str) -> str:
    """The raw feature of a strength."""
    return f"promotion_{name}"


def promotion_columns(table: spec.Promotions) -> list[str]:
    """The columns that ``promotions_by_item`` reads."""
    return [table.item, table.from_, table.until, *table.strengths.values()]


def promotions_by_item(chunk: Chunk, table: spec.Promotions) -> dict[bytes, Part]:
    """The raw features of one chunk's promotions, grouped by item.

    Raises:
        InputError: an id, time or strength does not fit, naming its row.
    """
    items = ids_as_bytes(chunk, table.item)
    starts, ends = (columns.seconds(chunk, name, table.time_format, future=True) for name in (table.from_, table.until))
    chunk.refuse(ends <= starts, table.until, f"a time after that of '{table.from_}'")
    values: Part = {START: starts, END: ends}
    for name in table.names:
        column = table.strengths.get(name)
        strength = np.ones(len(chunk)) if column is None else columns.numbers(chunk, column)
        if column is not None:
            chunk.refuse(~(strength >= 0), column, "a number of at least 0")
        values[strength_key(name)] = strength.astype(np.float32)
    order = np.argsort(items, kind="stable")
    names, first = np.unique(items[order], return_index=True)
    parts = {key: np.split(column[order], first[1:]) for key, column in values.items()}
    return {name: {key: rows[place] for key, rows in parts.items()} for place, name in enumerate(names.tolist())}


def promotion_record(parts: Iterable[Part]) -> Record:
    """One item's promotions as raw features, in an order that does not depend on that of the parts."""
    found = list(parts)
    if not found:
        return {}
    joined = {key: np.concatenate([part[key] for part in found]) for key in found[0]}
    order = np.lexsort(tuple(reversed(joined.values())))
    return {key: values[order].tolist() for key, values in joined.items()}
