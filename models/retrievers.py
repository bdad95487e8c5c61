"""The retrieval models by the name that ``retrieval.model`` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twotower.models.contract import Towers, TrainingData
from twotower.models.family import (
    als,
    ease,
    graph_tower,
    item_cosine,
    lightgcn,
    mf,
    nmf,
    pinsage,
    popularity,
    svd,
    ultragcn,
)
from twotower.models.retrieval import fit as fit_two_tower

FITS: Mapping[str, Callable[[TrainingData], Towers]] = {
    "two_tower": fit_two_tower,
    "popularity": popularity.fit,
    "item_cosine": item_cosine.fit,
    "svd": svd.fit,
    "als": als.fit,
    "mf": mf.fit,
    "nmf": nmf.fit,
    "ease": ease.fit,
    "lightgcn": lightgcn.fit,
    "ultragcn": ultragcn.fit,
    "pinsage": pinsage.fit,
    "graph_tower": graph_tower.fit,
}


def fit(data: TrainingData) -> Towers:
    """Fit the model that ``data.spec.retrieval`` names, seeded by ``data.spec.seed``."""
    return FITS[data.spec.retrieval.model](data)
