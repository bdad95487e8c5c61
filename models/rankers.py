"""The rankers by the name that ``ranking.model`` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twotower.models.neumf import fit as fit_neumf
from twotower.models.ranking_contract import Ranker, RankingData
from twotower.models.ranking_fit import fit as fit_multi_task

FITS: Mapping[str, Callable[[RankingData], Ranker]] = {
    "multi_task": fit_multi_task,
    "neumf": fit_neumf,
}


def fit(data: RankingData) -> Ranker:
    """Fit the ranker that ``data.spec.ranking`` names, seeded by ``data.spec.seed``."""
    return FITS[data.spec.ranking.model](data)
