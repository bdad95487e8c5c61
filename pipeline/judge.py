"""What stops a recommender from being blessed: popularity, or the last pushed version, as a whole or on a slice."""

from __future__ import annotations

from collections.abc import Sequence

from twotower.features.spec import Evaluation, Spec
from twotower.models.slices import SliceValues, losses
from twotower.pipeline.scores import Scores

OURS, LAST = "recommender", "last pushed"


def judge_quality(evaluation: Evaluation, found: Scores, baselines: Scores) -> str:
    """Why the recommender's lists of all purchases are not good enough, or nothing."""
    main, metric = evaluation.candidates[0].name, f"{evaluation.metric}@{evaluation.cutoffs[0]}"
    ours = found.find(OURS, main, "all")
    popular = baselines.find("popularity", main, "all")
    last = found.find(LAST, main, "all")
    assert ours is not None
    assert popular is not None
    if ours.of(metric) <= popular.of(metric):
        return f"{metric} {ours.of(metric):.4f} does not beat popularity's {popular.of(metric):.4f}"
    if last is not None:
        limit = last.of(metric) * (1 - evaluation.tolerance)
        if ours.of(metric) < limit:
            return (
                f"{metric} {ours.of(metric):.4f} falls below the last pushed version's {last.of(metric):.4f} "
                f"(limit {limit:.4f})"
            )
    return ""


def judge_slices(spec: Spec, ours: Sequence[SliceValues], last: Sequence[SliceValues]) -> list[str]:
    """A sentence for each slice that surely lost more than the spec allows; see ``slices.losses``.

    Args:
        spec: the tolerance, the least number of users, and the resamples.
        ours: the main metric on the slices of the recommender's lists.
        last: the same of the last pushed version's lists, for the same requests.
    """
    chosen = spec.evaluation
    found = losses(ours, last, chosen.slice_tolerance, chosen.min_slice_users, chosen.resamples, spec.seed)
    return [
        f"slice {loss.slice.group}, {loss.slice.name} ({loss.users:,} users): {chosen.metric}@{chosen.cutoffs[0]} "
        f"{loss.ours:.4f}, the last pushed version's {loss.theirs:.4f} "
        f"(limit {loss.theirs * (1 - chosen.slice_tolerance):.4f})"
        for loss in found
    ]
