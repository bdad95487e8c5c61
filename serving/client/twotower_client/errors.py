"""What can go wrong, as exceptions: one class per thing that a caller can do about it."""

from __future__ import annotations

import difflib
from collections.abc import Collection

import grpc


class RecommenderError(Exception):
    """Any failure of a call; its subclasses say what to do about it.

    Attributes:
        code: the ``grpc.StatusCode`` that the server gave, or the one that fits best where the client itself refused.
        message: the server's or the client's message, in one line.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


class InvalidRequestError(RecommenderError):
    """The request is wrong and will stay wrong: INVALID_ARGUMENT, FAILED_PRECONDITION or OUT_OF_RANGE."""

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> None:
        super().__init__(code, message)


class UnknownFeatureError(InvalidRequestError):
    """A feature that the served model does not have; raised before the request is sent.

    Attributes:
        feature: the name that was given.
        known: the names that the model has, sorted.
        suggestion: the nearest known name, or None.
    """

    def __init__(self, kind: str, feature: str, known: Collection[str]) -> None:
        self.feature = feature
        self.known = tuple(sorted(known))
        nearest = difflib.get_close_matches(feature, self.known, n=1)
        self.suggestion = nearest[0] if nearest else None
        hint = f"; did you mean {self.suggestion!r}?" if self.suggestion else "."
        names = ", ".join(self.known) or "none"
        super().__init__(f"unknown {kind} feature {feature!r}{hint} The model's {kind} features: {names}")


class UnknownLabelError(InvalidRequestError):
    """The server has no such version label for the model."""


class FeatureTypeError(InvalidRequestError):
    """A feature's value has another type than the model expects; raised before the request is sent.

    Attributes:
        feature: the name of the feature.
    """

    def __init__(self, feature: str, message: str) -> None:
        self.feature = feature
        super().__init__(message)


class NotFoundError(RecommenderError):
    """NOT_FOUND: the server has no such model, or no such version of it."""


class AuthenticationError(RecommenderError):
    """UNAUTHENTICATED or PERMISSION_DENIED: the token or certificate is missing, wrong, or not enough."""


class DeadlineExceededError(RecommenderError):
    """DEADLINE_EXCEEDED: no answer within the call's timeout."""


class UnavailableError(RecommenderError):
    """UNAVAILABLE, after the retries: nothing listens there, or the server is starting or going down."""


class OverloadedError(RecommenderError):
    """RESOURCE_EXHAUSTED: the server refuses more work, or a message is larger than a limit."""


class ServerError(RecommenderError):
    """Every other status, and replies that do not fit the contract."""


class ClientClosedError(RecommenderError):
    """The client was used after ``close()``, or closed during the call."""

    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.CANCELLED, "this Recommender is closed; make a new one")


#: TensorFlow Serving's words; it has no status of its own for this.
_UNKNOWN_LABEL = "Unrecognized servable version label:"

_INVALID = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
)
_BY_CODE: dict[grpc.StatusCode, type[RecommenderError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: AuthenticationError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
}


def from_status(code: grpc.StatusCode, message: str) -> RecommenderError:
    """Return the typed error for a gRPC status."""
    if code is grpc.StatusCode.INVALID_ARGUMENT and message.startswith(_UNKNOWN_LABEL):
        return UnknownLabelError(message, code)
    if code in _INVALID:
        return InvalidRequestError(message, code)
    return _BY_CODE.get(code, ServerError)(code, message)
