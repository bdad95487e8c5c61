"""What the blocking and the asyncio client have in common: how they are set up."""

from __future__ import annotations

from typing import TypedDict

import grpc

from .calls import Calls
from .channel import Token, authorization, check_token_is_safe
from .errors import ClientClosedError, InvalidRequestError
from .hedging import HedgeBudget
from .rollout import CanarySplit
from .shadow import Shadow
from .versions import version_choice

#: Requests of one call that are under way at the same time.
CONCURRENT_REQUESTS = 4


class Options(TypedDict, total=False):
    """The arguments of `Client` that have to be named, for those who pass them on."""

    token: Token | None
    insecure_token: bool
    version: int | None
    label: str | None
    split: CanarySplit | None
    shadow: Shadow | None
    batch_size: int
    hedge_after: float | None


class Client:
    """Base of `Recommender` and `AsyncRecommender`.

    Args:
        target: ``host:port`` or any gRPC name (``dns:///...``, ``unix:/path``). Calls go to all addresses in turn.
        model_name: the model's name on the server.
        timeout: seconds per call, unless the call says otherwise.
        credentials: for TLS, from `tls_credentials` or gRPC's own; None connects without.
        token: sent with every call as ``authorization: Bearer TOKEN``; a function is asked before each.
        insecure_token: send the token without TLS too, where the network is trusted.
        version: the version of the model to ask; without it and `label`, the newest.
        label: the label of the version to ask, such as ``stable``.
        split: sends a share of the users to the version labelled ``canary``, the others to ``stable``.
        shadow: asks another version the same besides, and compares; closed by whoever made it.
        batch_size: the most queries in one request; a larger batch goes as several.
        hedge_after: seconds after which a call without an answer is sent a second time, and the first answer counts;
            None sends every call once. About the 95th percentile of the latency is a good choice.

    Raises:
        InvalidRequestError: an argument that cannot be meant.
    """

    def __init__(
        self,
        target: str,
        model_name: str = "recommender",
        timeout: float = 2.0,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        token: Token | None = None,
        insecure_token: bool = False,
        version: int | None = None,
        label: str | None = None,
        split: CanarySplit | None = None,
        shadow: Shadow | None = None,
        batch_size: int = 256,
        hedge_after: float | None = None,
    ) -> None:
        check_token_is_safe(token, credentials, insecure_token)
        if isinstance(token, str):
            authorization(token)
        if hedge_after is not None and not hedge_after > 0:
            raise InvalidRequestError(f"hedge_after: expected more than 0 seconds, found {hedge_after!r}")
        self._calls = Calls(model_name, timeout, version_choice(version, label), split, batch_size)
        self._token = token
        self._shadow = shadow
        self._hedge_after = hedge_after
        self._budget = HedgeBudget()
        self._closed = False
        self._connect(target, credentials)

    def _connect(self, target: str, credentials: grpc.ChannelCredentials | None) -> None:
        raise NotImplementedError

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError
