"""The calls of the client, as plans: requests built, replies read, versions chosen, batches split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import NamedTuple

import grpc

from . import wire_pb2 as wire
from .errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    RecommenderError,
    UnavailableError,
    UnknownLabelError,
)
from .features import feature_columns
from .inputs import complete, id_list, list_length, query_columns
from .metadata import InputSpec, MetadataCache
from .replies import embedding, item_lists, ranked_candidates
from .rollout import CANARY, STABLE, CanarySplit
from .rules import rule_columns
from .steps import Plan, Rpc, Sleep, Together
from .tensors import Tensor
from .types import Embedding, FeatureValue, Query, Recommendation, Rules, Time, VersionStatus
from .versions import VersionChoice, model_spec, version_choice

Inputs = dict[str, wire.TensorProto]


class Route(NamedTuple):
    """The version that a call is for, and the label that stands in where there is no such one."""

    choice: VersionChoice
    fallback: str | None = None


@dataclass(frozen=True)
class Calls:
    """The calls to one model; what each takes and gives is what the client's method of the same name does.

    Attributes:
        model_name: the model's name on the server.
        timeout: seconds per call, unless the call says otherwise.
        choice: the version, unless the call says otherwise.
        split: chooses the label by user where neither call nor client names a version; None leaves it to the server.
        batch_size: the most queries in one request.
    """

    model_name: str
    timeout: float
    choice: VersionChoice
    split: CanarySplit | None
    batch_size: int
    metadata: MetadataCache = field(init=False)

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise InvalidRequestError(f"timeout: expected more than 0 seconds, found {self.timeout!r}")
        if self.batch_size < 1:
            raise InvalidRequestError(f"batch_size: expected at least 1, found {self.batch_size!r}")
        if self.split is not None and self.choice is not None:
            raise InvalidRequestError("split: expected no version and no label beside it; the split chooses the label")
        object.__setattr__(self, "metadata", MetadataCache(self.model_name))

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
        version: int | None = None,
        label: str | None = None,
    ) -> Plan[Recommendation]:
        """Return the k best items for one user: retrieved, filtered and ranked. Fewer when fewer remain.

        Args:
            user_id: as in `Query`, like `history`, `exclude`, `user`, `context`, `time` and `rules`.
            k: the length of the list.
            timings: also say how long each stage took.
            timeout: seconds for the call, its retries included; None takes the client's.
            version: ask this version of the model.
            label: ask the version with this label; neither of the two: the client's choice.
        """
        query = Query(user_id, history, user or {}, context or {}, time, exclude, rules or Rules())
        lists = yield from self.recommend_many(
            [query], k, timings=timings, timeout=timeout, version=version, label=label
        )
        return lists[0]

    def recommend_many(
        self,
        queries: Sequence[Query],
        k: int = 10,
        exclude: Sequence[str] = (),
        *,
        timings: bool = False,
        timeout: float | None = None,
        version: int | None = None,
        label: str | None = None,
    ) -> Plan[list[Recommendation]]:
        """Return one list per query, in their order.

        More than the client's `batch_size` go as several requests, a few at the same time. One that fails fails the
        call. Versions may differ between the lists while a new one is being switched in.

        Args:
            queries: any number; none gives no lists, without a request.
            k: the length of every list.
            exclude: item ids to exclude from every list, beside each query's own.
            timings: also say how long each stage took.
            timeout: seconds for the whole call.
            version: as in `recommend`, like `label`.
            label: see `version`.
        """
        signature = "recommend_timed" if timings else "recommend"
        return (yield from self._lists(signature, queries, k, exclude, timeout, version, label))

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
        version: int | None = None,
        label: str | None = None,
    ) -> Plan[Recommendation]:
        """Return the first stage's k best items, otherwise as `recommend`: no scores per task, no rules but filters."""
        query = Query(user_id, history, user or {}, context or {}, time, exclude, rules or Rules())
        lists = yield from self._lists("retrieve", [query], k, (), timeout, version, label)
        return lists[0]

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
        version: int | None = None,
        label: str | None = None,
    ) -> Plan[Recommendation]:
        """Return all of the `candidates` scored for one user, best first; equal scores keep the given order."""
        query = Query(user_id, history, user or {}, context or {}, time)
        ids = Tensor((1, len(candidates)), id_list(candidates, "candidates"))
        columns = {**query_columns([query]), "candidate_item_ids": ids}
        reply = yield from self._predict(
            "rank",
            lambda specs: query_inputs("rank", [query], columns, specs),
            self._deadline(timeout),
            self._route(user_id, version, label),
        )
        return ranked_candidates(reply, candidates)

    def similar_items(
        self,
        item_id: str,
        k: int = 10,
        *,
        timeout: float | None = None,
        version: int | None = None,
        label: str | None = None,
    ) -> Plan[Recommendation]:
        """Return the k items nearest to `item_id`."""
        columns = {"item_ids": Tensor((1,), id_list([item_id], "item_id")), "k": list_length(k)}
        reply = yield from self._predict(
            "similar_items",
            lambda specs: complete(columns, specs, "similar_items", batch=1),
            self._deadline(timeout),
            self._route("", version, label),
        )
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
        version: int | None = None,
        label: str | None = None,
    ) -> Plan[Embedding]:
        """Return the query tower's vector, ``[dim]``."""
        query = Query(user_id, history, user or {}, context or {}, time)
        columns = query_columns([query])
        reply = yield from self._predict(
            "embed_query",
            lambda specs: query_inputs("embed_query", [query], columns, specs),
            self._deadline(timeout),
            self._route(user_id, version, label),
        )
        batch = embedding(reply, 1)
        return Embedding(batch.values[0], batch.model_version)

    def embed_items(
        self,
        items: Sequence[Mapping[str, FeatureValue]],
        *,
        timeout: float | None = None,
        version: int | None = None,
        label: str | None = None,
    ) -> Plan[Embedding]:
        """Return the candidate tower's vectors, ``[len(items), dim]``, in one request: of one version.

        Args:
            items: features by name without the ``item_`` prefix, and the id under ``item_id``; all may be left out.
            timeout: seconds for the call.
            version: as in `recommend`, like `label`.
            label: see `version`.
        """
        ids = []
        for row, item in enumerate(items):
            item_id = item.get("item_id", "")
            if not isinstance(item_id, str):
                raise InvalidRequestError(f"items[{row}]: item_id: expected a string, found {item_id!r}")
            ids.append(item_id.encode())
        features = [{name: value for name, value in item.items() if name != "item_id"} for item in items]

        def inputs(specs: Mapping[str, InputSpec]) -> Inputs:
            columns = {"item_id": Tensor((len(ids),), ids), **feature_columns("item", features, specs)}
            return complete(columns, specs, "embed_items", len(items))

        reply = yield from self._predict(
            "embed_items", inputs, self._deadline(timeout), self._route("", version, label)
        )
        return embedding(reply, len(items))

    def status(
        self, *, timeout: float | None = None, version: int | None = None, label: str | None = None
    ) -> Plan[list[VersionStatus]]:
        """Return the state of every version of the model that the server knows, or of the one that is named."""
        choice = version_choice(version, label)
        choice = self.choice if choice is None else choice
        return (yield from self._status(self.timeout if timeout is None else timeout, choice, wait_for_ready=False))

    def wait_until_ready(self, timeout: float = 60.0) -> Plan[list[VersionStatus]]:
        """Wait until a version of the model is AVAILABLE, the server's start included; the client's own, if it has one.

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
                states = yield from self._status(remaining, self.choice, wait_for_ready=True)
            except (UnavailableError, NotFoundError, UnknownLabelError) as error:
                seen = str(error)
            except DeadlineExceededError:
                break
            else:
                if any(version.state == "AVAILABLE" for version in states):
                    return states
                seen = ", ".join(f"version {version.version} {version.state}" for version in states) or "no version"
            yield Sleep(max(min(pause, deadline - monotonic()), 0))
            pause = min(2 * pause, 1.0)
        raise DeadlineExceededError(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"model {self.model_name!r} was not available within {timeout:g} s; seen last: {seen}",
        )

    def _deadline(self, timeout: float | None) -> float:
        return monotonic() + (self.timeout if timeout is None else timeout)

    def _route(self, user_id: str, version: int | None, label: str | None) -> Route:
        choice = version_choice(version, label)
        if choice is not None or self.split is None:
            return Route(self.choice if choice is None else choice)
        label = self.split.label(user_id)
        return Route(label, STABLE if label == CANARY else None)

    def _lists(
        self,
        signature: str,
        queries: Sequence[Query],
        k: int,
        exclude: Sequence[str],
        timeout: float | None,
        version: int | None,
        label: str | None,
    ) -> Plan[list[Recommendation]]:
        deadline = self._deadline(timeout)
        length = list_length(k)
        if not queries:
            return []
        by_route: dict[Route, list[int]] = {}
        for place, query in enumerate(queries):
            by_route.setdefault(self._route(query.user_id, version, label), []).append(place)
        parts = [
            (route, places[start : start + self.batch_size])
            for route, places in by_route.items()
            for start in range(0, len(places), self.batch_size)
        ]

        def part(route: Route, places: Sequence[int]) -> Plan[list[Recommendation]]:
            some = [queries[place] for place in places]
            columns = {**query_columns(some, exclude), **rule_columns(some), "k": length}
            return (yield from self._listed(signature, some, columns, deadline, route))

        if len(parts) == 1:
            return (yield from part(*parts[0]))
        answers: list[list[Recommendation]] = yield Together([part(*one) for one in parts])
        found = {
            place: recommendation
            for (_, places), answer in zip(parts, answers, strict=True)
            for place, recommendation in zip(places, answer, strict=True)
        }
        return [found[place] for place in range(len(queries))]

    def _listed(
        self,
        signature: str,
        queries: Sequence[Query],
        columns: Mapping[str, Tensor],
        deadline: float,
        route: Route,
    ) -> Plan[list[Recommendation]]:
        """Return one list per query, asked for in one request."""
        reply = yield from self._predict(
            signature, lambda specs: query_inputs(signature, queries, columns, specs), deadline, route
        )
        return item_lists(reply)

    def _predict(
        self,
        signature: str,
        inputs: Callable[[Mapping[str, InputSpec]], Inputs],
        deadline: float,
        route: Route,
    ) -> Plan[wire.PredictResponse]:
        """Send one request; what the split sends to a canary that is not there, to the stable version."""
        try:
            return (yield from self._current(signature, inputs, deadline, route.choice))
        except UnknownLabelError:
            if route.fallback is None:
                raise
        return (yield from self._current(signature, inputs, deadline, route.fallback))

    def _current(
        self,
        signature: str,
        inputs: Callable[[Mapping[str, InputSpec]], Inputs],
        deadline: float,
        choice: VersionChoice,
    ) -> Plan[wire.PredictResponse]:
        """Send one request; where a new version has changed the signature, once more with its inputs."""
        signatures = yield from self.metadata.get(choice, deadline)
        try:
            return (yield from self._attempt(signature, inputs(signatures.signature(signature)), deadline, choice))
        except UnknownLabelError:
            raise
        except InvalidRequestError as refusal:
            try:
                fresh = yield from self.metadata.refresh(choice, deadline, signatures)
            except RecommenderError:
                raise refusal from None
            if fresh == signatures:
                raise
        return (yield from self._attempt(signature, inputs(fresh.signature(signature)), deadline, choice))

    def _attempt(
        self, signature: str, inputs: Inputs, deadline: float, choice: VersionChoice
    ) -> Plan[wire.PredictResponse]:
        request = wire.PredictRequest(model_spec=model_spec(self.model_name, choice, signature), inputs=inputs)
        reply: wire.PredictResponse = yield Rpc("Predict", request, max(deadline - monotonic(), 0))
        if reply.model_spec.HasField("version"):
            self.metadata.answered(choice, reply.model_spec.version.value)
        return reply

    def _status(self, timeout: float, choice: VersionChoice, wait_for_ready: bool) -> Plan[list[VersionStatus]]:
        request = wire.GetModelStatusRequest(model_spec=model_spec(self.model_name, choice))
        reply: wire.GetModelStatusResponse = yield Rpc("GetModelStatus", request, timeout, wait_for_ready)
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
    signature: str, queries: Sequence[Query], columns: Mapping[str, Tensor], specs: Mapping[str, InputSpec]
) -> Inputs:
    """Return all inputs of a signature: the columns, the queries' features, and "not known" for the rest.

    Raises:
        InvalidRequestError: what the signature does not take.
    """
    features = {
        **feature_columns("user", [query.user for query in queries], specs),
        **feature_columns("context", [query.context for query in queries], specs),
    }
    return complete({**columns, **features}, specs, signature, len(queries))
