"""Thin gRPC client of the twotower recommender."""

from .errors import (
    ClientClosedError,
    DeadlineExceededError,
    FeatureTypeError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RecommenderError,
    ServerError,
    UnavailableError,
    UnknownFeatureError,
)
from .recommender import Recommender
from .two_stage import TwoStageRecommender
from .types import Embedding, HistoryEvent, Query, Range, Recommendation, Rules, ScoredItem, VersionStatus

__all__ = [
    "ClientClosedError",
    "DeadlineExceededError",
    "Embedding",
    "FeatureTypeError",
    "HistoryEvent",
    "InvalidRequestError",
    "NotFoundError",
    "OverloadedError",
    "Query",
    "Range",
    "Recommendation",
    "Recommender",
    "RecommenderError",
    "Rules",
    "ScoredItem",
    "ServerError",
    "TwoStageRecommender",
    "UnavailableError",
    "UnknownFeatureError",
    "VersionStatus",
]
