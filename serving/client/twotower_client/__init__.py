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
from .two_stage import AsyncTwoStageRecommender, TwoStageRecommender
from .types import Embedding, HistoryEvent, Query, Range, Recommendation, Rules, ScoredItem, VersionStatus

__all__ = [
    "AsyncRecommender",
    "AsyncTwoStageRecommender",
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
    "Range",
    "Recommendation",
    "Recommender",
    "RecommenderError",
    "Rules",
    "ScoredItem",
    "ServerError",
    "Shadow",
    "ShadowSummary",
    "TwoStageRecommender",
    "UnavailableError",
    "UnknownFeatureError",
    "UnknownLabelError",
    "VersionStatus",
    "tls_credentials",
]
