"""Whether lists that were computed in batches of different shapes are the same lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

# What the shape of a batch may change of a score by the order of its sums.
TOLERANCE = 1e-4
# An item within that rounding of the last candidate is one in one list alone, and a number of a tree's threshold takes
# the other branch. Few do, and both say little of the list's best.
STEP = 0.02
STEPPING = 0.001

Ranked = Sequence[tuple[str, float]]


def assert_same_lists(pairs: Iterable[tuple[Ranked, Ranked]]) -> None:
    """Check pairs of lists, each (item id, score) from the best on.

    An item that stands in one list alone must score as the other list's last one does.
    """
    differences, same_places, places = [], 0, 0
    for one, other in pairs:
        assert len(one) == len(other)
        same_places += sum(mine == theirs for (mine, _), (theirs, _) in zip(one, other, strict=True))
        places += len(one)
        for mine, theirs in ((one, other), (other, one)):
            scores = [score for _, score in mine]
            assert scores == sorted(scores, reverse=True)
            known = dict(theirs)
            differences += [abs(score - known.get(item, theirs[-1][1])) for item, score in mine]
    assert places
    assert max(differences) <= STEP, f"{max(differences)} at most"
    assert np.mean(np.array(differences) > TOLERANCE) <= STEPPING
    assert same_places >= 0.95 * places
