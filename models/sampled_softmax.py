"""Sampled softmax over in-batch and uniform items with logQ correction, and hard negatives.

Yi et al. 2019 (doi:10.1145/3298689.3346996) for the correction; Yang et al. 2020 (doi:10.1145/3366424.3386195) for
the mixture of in-batch and uniform negatives; Robinson et al. 2021 (arXiv:2010.04592) for the hard ones.
"""

from __future__ import annotations

import tensorflow as tf

# Score of a candidate that does not count.
NEVER = -1e30


def inclusion_probability(share: tf.Tensor, n_positives: int, n_uniform: int, n_items: int) -> tf.Tensor:
    """The probability that an item is among a step's candidates, [c].

    It is drawn ``n_positives`` times with probability ``share`` [c] and ``n_uniform`` times with 1 / ``n_items``.
    """
    expected = n_positives * share + n_uniform / n_items
    # How often an item is drawn is all but Poisson distributed: this is the probability that it is at all.
    return -tf.math.expm1(-expected)


def first_places(rows: tf.Tensor, n_items: int) -> tf.Tensor:
    """[c] true where no earlier candidate is the same item: a step's candidates are a set."""
    places = tf.range(tf.size(rows))
    first = tf.tensor_scatter_nd_min(tf.fill([n_items], tf.size(rows)), rows[:, tf.newaxis], places)
    return tf.gather(first, rows) == places


def softmax_loss(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    rows: tf.Tensor,
    log_probability: tf.Tensor,
    *,
    each: int,
    n_items: int,
    hardness: float = 0.0,
) -> tf.Tensor:
    """The mean of -log softmax of each positive against the step's other items.

    Args:
        queries: [q, dim].
        candidates: [c, dim]; the first q * ``each`` are the queries' positives, those of a query side by side.
        rows: [c] the candidates' catalogue rows. An item counts once, and never against a query whose positive it is.
        log_probability: [c] logarithm of the probability that the item is a candidate; subtracted from the scores.
        each: positives of a query.
        n_items: size of the catalogue.
        hardness: above 0, a negative weighs e^(hardness * score), relative to the mean of all.
    """
    n_queries, dim = queries.shape[0] or tf.shape(queries)[0], candidates.shape[1]
    positives = n_queries * each
    own = tf.reshape(candidates[:positives], [n_queries, each, dim])
    own_rows = tf.reshape(rows[:positives], [n_queries, each])
    own_scores = tf.reduce_sum(queries[:, tf.newaxis] * own, axis=2)
    own_scores -= tf.reshape(log_probability[:positives], [n_queries, each])
    scores = tf.matmul(queries, candidates, transpose_b=True)
    counts = first_places(rows, n_items) & tf.reduce_all(own_rows[:, :, tf.newaxis] != rows, axis=1)
    negatives = tf.reduce_logsumexp(tf.where(counts, scores - log_probability, NEVER), axis=1)
    if hardness > 0:
        # The sum over negatives with their weights, over the mean weight of an item of the catalogue; both estimated
        # from the sample, whose corrected terms add up to the catalogue's.
        weights = hardness * tf.stop_gradient(scores)
        harder = tf.reduce_logsumexp(tf.where(counts, scores + weights - log_probability, NEVER), axis=1)
        mean = tf.reduce_logsumexp(tf.where(counts, weights - log_probability, NEVER), axis=1)
        size = tf.reduce_logsumexp(tf.where(counts, -log_probability, NEVER), axis=1)
        negatives = harder - mean + size
    # log(e^positive + e^negatives) - positive.
    return tf.reduce_mean(tf.math.softplus(negatives[:, tf.newaxis] - own_scores))
