"""The client: one object per model, shared by all threads of a process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from time import monotonic, sleep
from types import TracebackType
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt

from . import wire_pb2 as wire
from .channel import ServingChannel
from .errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    RecommenderError,
    UnavailableError,
)
from .features import feature_columns
from .inputs import complete, id_column, query_columns
from .metadata import InputSpec, MetadataCache
from .replies import embedding, item_lists, ranked_candidates
from .rules import rule_columns
from .types import Embedding, FeatureValue, Query, Recommendation, Rules, Time, VersionStatus

_Inputs = dict[str, wire.TensorProto]


class Recommender:
    """A recommender served by TensorFlow Serving, or by the embedded server.

    Example:
        >>> with Recommender("localhost:8500") as recommender:
        ...     result = recommender.recommend("1364", history=[("banana", 1_700_000_000)], k=10)

    Every call has a deadline, which also covers its retries and the first call's look at the model's metadata.
    Every call raises a `RecommenderError`: InvalidRequestError, NotFoundError, DeadlineExceededError,
    UnavailableError, OverloadedError, ServerError or ClientClosedError.

    Args:
        target: ``host:port`` or any gRPC name (``dns:///...``, ``unix:...``). Calls go to all addresses in turn.
        model_name: the model's name on the server.
        timeout: seconds per call, unless the call says otherwise.
        credentials: for TLS, e.g. ``grpc.ssl_channel_credentials(ca)``; None connects without.
    """

    def __init__(
        self,
        target: str,
        model_name: str = "recommender",
        timeout: float = 2.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._model_name = model_name
        self._timeout = timeout
        self._channel = ServingChannel(target, credentials)
        self._metadata = MetadataCache(self._channel, model_name)

    def recommend(
        self,
        user_id: str = "",
        history: Sequence[tuple[str, Time]] = (),
        *,
        k: int = 10,
        exclude: Sequence[str] = (),
        user: Mapping[str, FeatureValue] | None = None,
        context: Mapping[str, FeatureValue] | None = None,
        time: Time | None = None,
        rules: Rules | None = None,
        timings: bool = False,
        timeout: float | None = None,
    ) -> Recommendation:
        """Return the k best items for one user: retrieved, filtered and ranked. Fewer when fewer remain.

        The arguments but `k`, `timings` (also say how long each stage took) and `timeout` are those of `Query`.
        """
        query = Query(user_id, history, user or {}, context or {}, time, exclude, rules or Rules())
        return self.recommend_many([query], k, timings=timings, timeout=timeout)[0]

    def recommend_many(
        self,
        queries: Sequence[Query],
        k: int = 10,
        exclude: Sequence[str] = (),
        *,
        timings: bool = False,
        timeout: float | None = None,
    ) -> list[Recommendation]:
        """Return one list per query, in one request.

        Args:
            queries: any number; none gives no lists, without a request.
            k: the length of every list.
            exclude: item ids to exclude from every list, beside each query's own.
            timings: also say how long each stage took.
            timeout: seconds for the call.
        """
        return self._lists("recommend_timed" if timings else "recommend", queries, k, exclude, timeout)

    def retrieve(
        self,
        user_id: str = "",
        history: Sequence[tuple[str, Time]] = (),
        *,
        k: int = 10,
        exclude: Sequence[str] = (),
        user: Mapping[str, FeatureValue] | None = None,
        context: Mapping[str, FeatureValue] | None = None,
        time: Time | None = None,
        rules: Rules | None = None,
        timeout: float | None = None,
    ) -> Recommendation:
        """Return the k best items of the first stage alone; no scores per task, and no rules but filters."""
        query = Query(user_id, history, user or {}, context or {}, time, exclude, rules or Rules())
        return self._lists("retrieve", [query], k, (), timeout)[0]

    def rank(
        self,
        user_id: str = "",
        history: Sequence[tuple[str, Time]] = (),
        *,
        candidates: Sequence[str],
        user: Mapping[str, FeatureValue] | None = None,
        context: Mapping[str, FeatureValue] | None = None,
        time: Time | None = None,
        timeout: float | None = None,
    ) -> Recommendation:
        """Return all of the `candidates` scored for one user, best first; equal scores keep the given order."""
        query = Query(user_id, history, user or {}, context or {}, time)
        columns = {**query_columns([query]), "candidate_item_ids": id_column(candidates, "candidates")[np.newaxis]}
        reply = self.predict("rank", lambda specs: query_inputs("rank", [query], columns, specs), timeout)
        return ranked_candidates(reply, candidates)

    def similar_items(self, item_id: str, k: int = 10, *, timeout: float | None = None) -> Recommendation:
        """Return the k items nearest to `item_id`."""
        columns = {"item_ids": id_column([item_id], "item_id"), "k": whole_k(k)}
        reply = self.predict("similar_items", lambda specs: complete(columns, specs, "similar_items", batch=1), timeout)
        return item_lists(reply)[0]

    def embed_query(
        self,
        user_id: str = "",
        history: Sequence[tuple[str, Time]] = (),
        *,
        user: Mapping[str, FeatureValue] | None = None,
        context: Mapping[str, FeatureValue] | None = None,
        time: Time | None = None,
        timeout: float | None = None,
    ) -> Embedding:
        """Return the query tower's vector, ``[dim]``."""
        query = Query(user_id, history, user or {}, context or {}, time)
        columns = query_columns([query])
        reply = self.predict("embed_query", lambda specs: query_inputs("embed_query", [query], columns, specs), timeout)
        batch = embedding(reply, 1)
        return Embedding(batch.values[0], batch.model_version)

    def embed_items(self, items: Sequence[Mapping[str, FeatureValue]], *, timeout: float | None = None) -> Embedding:
        """Return the candidate tower's vectors, ``[len(items), dim]``.

        Args:
            items: features by name without the ``item_`` prefix, and the id under ``item_id``; all may be left out.
            timeout: seconds for the call.
        """
        ids = np.empty(len(items), dtype=object)
        for row, item in enumerate(items):
            item_id = item.get("item_id", "")
            if not isinstance(item_id, str):
                raise InvalidRequestError(f"items[{row}]: item_id: expected a string, found {item_id!r}")
            ids[row] = item_id.encode()
        features = [{name: value for name, value in item.items() if name != "item_id"} for item in items]

        def inputs(specs: Mapping[str, InputSpec]) -> _Inputs:
            columns = {"item_id": ids, **feature_columns("item", features, specs)}
            return complete(columns, specs, "embed_items", len(items))

        return embedding(self.predict("embed_items", inputs, timeout), len(items))

    def status(self, *, timeout: float | None = None) -> list[VersionStatus]:
        """Return the state of every version of the model that the server knows."""
        return self._status(self._timeout if timeout is None else timeout, wait_for_ready=False)

    def wait_until_ready(self, timeout: float = 60.0) -> list[VersionStatus]:
        """Wait until a version of the model is AVAILABLE, the server's start included.

        Returns:
            The states at that moment.

        Raises:
            DeadlineExceededError: not within `timeout` seconds; the message says what was seen last.
        """
        deadline = monotonic() + timeout
        pause = 0.05
        seen = "no connection"
        while (remaining := deadline - monotonic()) > 0:
            try:
                states = self._status(remaining, wait_for_ready=True)
            except (UnavailableError, NotFoundError) as error:
                seen = str(error)
            except DeadlineExceededError:
                break
            else:
                if any(version.state == "AVAILABLE" for version in states):
                    return states
                seen = ", ".join(f"version {version.version} {version.state}" for version in states) or "no version"
            sleep(max(min(pause, deadline - monotonic()), 0))
            pause = min(2 * pause, 1.0)
        raise DeadlineExceededError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"model {self._model_name!r} was not available within {timeout:g} s; seen last: {seen}",
        )

    def close(self) -> None:
        """Close the connection; calls under way and later ones raise ClientClosedError."""
        self._channel.close()

    def __enter__(self) -> Recommender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lists(
        self, signature: str, queries: Sequence[Query], k: int, exclude: Sequence[str], timeout: float | None
    ) -> list[Recommendation]:
        columns = {**query_columns(queries, exclude), **rule_columns(queries), "k": whole_k(k)}
        if not queries:
            self._channel.check_open()
            return []
        reply = self.predict(signature, lambda specs: query_inputs(signature, queries, columns, specs), timeout)
        return item_lists(reply)

    def predict(
        self,
        signature: str,
        inputs: Callable[[Mapping[str, InputSpec]], _Inputs],
        timeout: float | None,
        version: int | None = None,
    ) -> wire.PredictResponse:
        """Send one request; where a new version has changed the signature, once more with its inputs.

        Args:
            signature: its name.
            inputs: the tensors, given what the signature takes.
            timeout: seconds for the call.
            version: the only version that may answer; None lets the server choose.
        """
        deadline = monotonic() + (self._timeout if timeout is None else timeout)
        self._channel.check_open()
        signatures = self._metadata.get(deadline)
        try:
            return self._attempt(signature, inputs(signatures.signature(signature)), deadline, version)
        except InvalidRequestError as refusal:
            try:
                fresh = self._metadata.refresh(deadline, signatures)
            except RecommenderError:
                raise refusal from None
            if fresh == signatures:
                raise
        return self._attempt(signature, inputs(fresh.signature(signature)), deadline, version)

    def _attempt(
        self, signature: str, inputs: _Inputs, deadline: float, version: int | None = None
    ) -> wire.PredictResponse:
        spec = wire.ModelSpec(name=self._model_name, signature_name=signature)
        if version is not None:
            spec.version.value = version
        request = wire.PredictRequest(model_spec=spec, inputs=inputs)
        reply = self._channel.predict(request, max(deadline - monotonic(), 0))
        if reply.model_spec.HasField("version"):
            self._metadata.answered(reply.model_spec.version.value)
        return reply

    def _status(self, timeout: float, wait_for_ready: bool) -> list[VersionStatus]:
        request = wire.GetModelStatusRequest(model_spec=wire.ModelSpec(name=self._model_name))
        reply = self._channel.status(request, timeout, wait_for_ready=wait_for_ready)
        return [
            VersionStatus(
                version.version,
                wire.ModelVersionStatus.State.Name(version.state)
                if version.state in wire.ModelVersionStatus.State.values()
                else "UNKNOWN",
                version.status.error_code,
                version.status.error_message,
            )
            for version in reply.model_version_status
        ]


def query_inputs(
    signature: str,
    queries: Sequence[Query],
    columns: Mapping[str, npt.NDArray[Any]],
    specs: Mapping[str, InputSpec],
) -> _Inputs:
    """Encode queries with their features for a signature of these inputs."""
    features = {
        **feature_columns("user", [query.user for query in queries], specs),
        **feature_columns("context", [query.context for query in queries], specs),
    }
    return complete({**columns, **features}, specs, signature, len(queries))


def whole_k(k: int) -> npt.NDArray[Any]:
    """Return k as a tensor; raises InvalidRequestError where it is no whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InvalidRequestError(f"k: expected a whole number of at least 1, found {k!r}")
    return np.array(k)
