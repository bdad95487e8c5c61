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
from .types import Embedding, HistoryEvent, Query, Recommendation, ScoredItem, VersionStatus

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
    "Recommendation",
    "Recommender",
    "RecommenderError",
    "ScoredItem",
    "ServerError",
    "UnavailableError",
    "UnknownFeatureError",
    "VersionStatus",
]
