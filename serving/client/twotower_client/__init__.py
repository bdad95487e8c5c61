"""Thin gRPC client of the twotower recommender, blocking and for asyncio."""

from .async_recommender import AsyncRecommender
from .channel import tls_credentials
from .errors import (
    AuthenticationError,
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
    UnknownLabelError,
)
from .recommender import Recommender
from .rollout import CanarySplit
from .shadow import Comparison, Shadow, ShadowSummary
from .types import Embedding, HistoryEvent, Query, Recommendation, ScoredItem, VersionStatus

__all__ = [
    "AsyncRecommender",
    "AuthenticationError",
    "CanarySplit",
    "ClientClosedError",
    "Comparison",
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
    "Shadow",
    "ShadowSummary",
    "UnavailableError",
    "UnknownFeatureError",
    "UnknownLabelError",
    "VersionStatus",
    "tls_credentials",
]
