"""Search among the items that a request's filters allow, which loses none of them.

Where few items are allowed, exactly they are scored. Where many are, the index is asked for more than is wanted, in
the hope that enough of it is allowed; where it was not, exact scores fill the list.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from twotower.models.row_sets import contains
from twotower.serving import filters as rules
from twotower.serving.filters import Filter

Tensors = Mapping[str, tf.Tensor]

# Up to here all allowed items are scored: the index would be asked for nearly as many.
EXACT_ROWS = 20_000
# Items that the index is asked for at most, and how many more than are expected to be needed.
OVER_FETCH, MARGIN = 10_000, 1.5
# Allowed items scored at a time.
BLOCK = 32_768


def search(
    index: tf.Module, n_items: int, filters: tuple[Filter, ...], inputs: Tensors, vectors: tf.Tensor, wanted: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The best allowed items of each row of a request, each row by itself.

    Args:
        index: a loaded ``IndexExport``.
        n_items: size of the catalogue.
        filters: of the request.
        inputs: theirs, and ``excluded`` [b, e], rows that are not allowed either; what is no row of the catalogue is
            padding.
        vectors: [b, dim] of the queries.
        wanted: [] how many items.

    Returns:
        scores and rows [b, wanted], best first; the tail of a list of fewer items holds row -1 and score -inf.
    """

    def search_row(row: tuple[dict[str, tf.Tensor], tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        given, vector = ({name: values[tf.newaxis] for name, values in row[0].items()}, row[1])
        return _search_row(index, n_items, filters, given, vector, wanted)

    names = (*rules.specs(filters), "excluded")
    found: tuple[tf.Tensor, tf.Tensor] = tf.map_fn(
        search_row,
        ({name: inputs[name] for name in names}, vectors),
        fn_output_signature=(tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)),
        parallel_iterations=1,
    )
    return found


def _search_row(
    index: tf.Module, n_items: int, filters: tuple[Filter, ...], inputs: Tensors, vector: tf.Tensor, wanted: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    # First the whole catalogue, which stands for filters that are not used, too.
    counts, sources = [tf.constant(n_items)], [lambda: tf.range(n_items)]
    for each in filters:
        count, rows = each.postings(inputs)
        counts.append(tf.where(each.used(inputs)[0], count, n_items))
        sources.append(rows)
    counts = tf.stack(counts)
    unfiltered = ~rules.used(filters, inputs)[0] if filters else tf.constant(True)
    # Of the row itself: what the index finds must not depend on how wide its neighbours have made the table.
    excluded = tf.reduce_sum(tf.cast(inputs["excluded"] < n_items, tf.int32))
    needed = tf.cast(wanted + excluded, tf.float32)
    share = tf.maximum(tf.reduce_prod(tf.cast(counts, tf.float32) / float(n_items)), 1e-9)
    asked = tf.where(unfiltered, needed, MARGIN * needed / share)
    asked = tf.cast(tf.minimum(asked, float(n_items)), tf.int32)
    fewest = tf.argmin(counts, output_type=tf.int32)

    def exact() -> tuple[tf.Tensor, tf.Tensor]:
        return _exact(index, tf.switch_case(fewest, sources), filters, inputs, vector, wanted)

    def over_fetch() -> tuple[tf.Tensor, tf.Tensor]:
        scores, rows = index.search(vector[tf.newaxis], asked)
        scores, rows = _best(scores[0], rows[0], filters, inputs, wanted)
        enough = (rows[-1] >= 0) | (asked >= n_items)
        filled: tuple[tf.Tensor, tf.Tensor] = tf.cond(enough, lambda: (scores, rows), exact)
        return filled

    few = (counts[fewest] <= EXACT_ROWS) | (asked > OVER_FETCH)
    found: tuple[tf.Tensor, tf.Tensor] = tf.cond(few & ~unfiltered, exact, over_fetch)
    return found


def _exact(
    index: tf.Module,
    rows: tf.Tensor,
    filters: tuple[Filter, ...],
    inputs: Tensors,
    vector: tf.Tensor,
    wanted: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """The best of the rows [m], a block at a time."""

    def block(start: tf.Tensor, scores: tf.Tensor, best: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        some = rows[start : start + BLOCK]
        some = tf.boolean_mask(some, _allowed(filters, inputs, some))
        found = tf.linalg.matvec(index.embeddings(some), vector)
        found, some = tf.concat([scores, found], axis=0), tf.concat([best, some], axis=0)
        kept = tf.math.top_k(found, wanted)
        return start + BLOCK, kept.values, tf.gather(some, kept.indices)

    nothing = tf.fill([wanted], -np.inf), tf.fill([wanted], -1)
    shapes = tf.TensorShape([]), tf.TensorShape([None]), tf.TensorShape([None])
    _, scores, best = tf.while_loop(
        lambda start, *_: start < tf.size(rows), block, (0, *nothing), shape_invariants=shapes, parallel_iterations=1
    )
    return scores, best


def _best(
    scores: tf.Tensor, rows: tf.Tensor, filters: tuple[Filter, ...], inputs: Tensors, wanted: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The first ``wanted`` of rows [m], best first, that are allowed; padded."""
    keep = (rows >= 0) & _allowed(filters, inputs, tf.maximum(rows, 0))
    scores, rows = tf.boolean_mask(scores, keep)[:wanted], tf.boolean_mask(rows, keep)[:wanted]
    missing = [[0, wanted - tf.size(rows)]]
    return tf.pad(scores, missing, constant_values=-np.inf), tf.pad(rows, missing, constant_values=-1)


def _allowed(filters: tuple[Filter, ...], inputs: Tensors, rows: tf.Tensor) -> tf.Tensor:
    """[m] whether the request of one row allows rows [m]."""
    given = rows[tf.newaxis]
    return (rules.allows(filters, inputs, given) & ~contains(inputs["excluded"], given))[0]
