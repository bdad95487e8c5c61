"""Clients of a recommender whose two stages are servables of their own, with the calls of the composed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar

import grpc

from . import wire_pb2 as wire
from .async_recommender import AsyncRecommender
from .calls import Calls, Inputs, Route, query_inputs
from .client import Client, Options
from .errors import NotFoundError
from .metadata import InputSpec
from .recommender import Recommender
from .replies import candidate_ids, item_lists, timings
from .steps import Plan, SecondStage, Step
from .tensors import Tensor
from .types import Query, Recommendation, VersionStatus
from .versions import VersionChoice

if TYPE_CHECKING:
    from typing import Unpack  # Python 3.11

#: The first stage's and the second stage's part of a composed recommender's signature.
_PARTS = {"recommend": ("candidates", "order"), "recommend_timed": ("candidates_timed", "order_timed")}
#: Inputs of a rule over the ranked list, which the first stage does not take.
_RANKED_RULES = ("cap_", "boost_", "diversity")
#: What both stages are told.
_OF_BOTH = ("user_id", "history_item_ids", "history_times", "time", "k")


@dataclass(frozen=True)
class TwoStageCalls(Calls):
    """The calls to the first stage, and through it to the second where a call needs that.

    Attributes:
        ranking: the calls to the second stage.
    """

    ranking: Calls

    @classmethod
    def of(cls, retrieval: Calls, ranking: Calls) -> TwoStageCalls:
        """Return the calls of a client of the first stage, joined with those of a client of the second."""
        first = retrieval
        return cls(first.model_name, first.timeout, first.choice, first.split, first.batch_size, ranking)

    def _listed(
        self,
        signature: str,
        queries: Sequence[Query],
        columns: Mapping[str, Tensor],
        deadline: float,
        route: Route,
    ) -> Plan[list[Recommendation]]:
        """Ask the second stage for the version that the first has answered by; if that has left it, both once more."""
        if signature not in _PARTS:
            return (yield from super()._listed(signature, queries, columns, deadline, route))
        candidates, order = _PARTS[signature]
        first = {name: column for name, column in columns.items() if not name.startswith(_RANKED_RULES)}
        second = {name: column for name, column in columns.items() if name not in first or name in _OF_BOTH}

        def asked() -> Plan[list[Recommendation]]:
            found = yield from self._predict(
                candidates, lambda specs: query_inputs(candidates, queries, first, specs), deadline, route
            )
            given = {**second, "candidate_item_ids": candidate_ids(found)}
            reply: wire.PredictResponse = yield SecondStage(
                self.ranking._predict(
                    order,
                    lambda specs: query_inputs(order, queries, given, specs),
                    deadline,
                    Route(found.model_spec.version.value),
                )
            )
            lists = item_lists(reply)
            return [
                replace(answer, timings=_added(of_first, answer.timings))
                for answer, of_first in zip(lists, timings(found, len(lists)), strict=True)
            ]

        try:
            return (yield from asked())
        except NotFoundError:  # where it is not the version that is gone, the second answer says so again
            pass
        return (yield from asked())

    def _predict(
        self,
        signature: str,
        inputs: Callable[[Mapping[str, InputSpec]], Inputs],
        deadline: float,
        route: Route,
    ) -> Plan[wire.PredictResponse]:
        if signature != "rank":
            return (yield from super()._predict(signature, inputs, deadline, route))
        reply: wire.PredictResponse = yield SecondStage(self.ranking._predict(signature, inputs, deadline, route))
        return reply

    def _status(self, timeout: float, choice: VersionChoice, wait_for_ready: bool) -> Plan[list[VersionStatus]]:
        """Return the versions of the first stage; one that is AVAILABLE there is what it is in the second."""
        deadline = monotonic() + timeout
        first = yield from super()._status(timeout, choice, wait_for_ready)
        second: list[VersionStatus] = yield SecondStage(
            self.ranking._status(max(deadline - monotonic(), 0), choice, wait_for_ready)
        )
        there = {status.version: status for status in second}
        return [
            there.get(status.version, VersionStatus(status.version, "UNKNOWN"))
            if status.state == "AVAILABLE"
            else status
            for status in first
        ]


class _TwoStages(Client):
    """What the blocking and the asyncio client have in common: how they are set up."""

    _stage: ClassVar[type[Client]]
    _ranking: Client

    def __init__(
        self,
        target: str,
        ranking_target: str | None = None,
        model_name: str = "recommender",
        timeout: float = 2.0,
        credentials: grpc.ChannelCredentials | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(target, f"{model_name}_retrieval", timeout, credentials, **options)
        second = ranking_target or target
        self._ranking = self._stage(second, f"{model_name}_ranking", timeout, credentials, **options)
        self._calls = TwoStageCalls.of(self._calls, self._ranking._calls)


class TwoStageRecommender(_TwoStages, Recommender):
    """Asks the first stage for candidates, and the same version of the second stage for their list. Thread-safe.

    The stages are the models ``<model_name>_retrieval`` and ``<model_name>_ranking``. Where the version that the first
    stage answered by has left the second meanwhile, both are asked once more. Calls and errors are those of
    `Recommender`; a version is AVAILABLE where both stages have it.

    Args:
        target: where the first stage is served, as for `Client`.
        ranking_target: where the second stage is; None: at the same place.
        model_name: what both models' names begin with.
        timeout: seconds per call, for both stages together, unless the call says otherwise.
        credentials: for TLS to both; None connects without.
        options: the other arguments of `Client`, for both stages; a label must name the same version of both models.
    """

    _stage = Recommender
    _ranking: Recommender

    def close(self) -> None:
        """Close both connections, as `Recommender.close` does."""
        super().close()
        self._ranking.close()

    def _carry_out(self, step: Step) -> Any:
        return self._ranking._run(step.plan) if isinstance(step, SecondStage) else super()._carry_out(step)


class AsyncTwoStageRecommender(_TwoStages, AsyncRecommender):
    """`TwoStageRecommender` for asyncio: the same arguments, calls and errors; every call is awaited."""

    _stage = AsyncRecommender
    _ranking: AsyncRecommender

    async def close(self) -> None:
        """Close both connections, as `AsyncRecommender.close` does."""
        await super().close()
        await self._ranking.close()

    async def _carry_out(self, step: Step) -> Any:
        if isinstance(step, SecondStage):
            return await self._ranking._run(step.plan)
        return await super()._carry_out(step)


def _added(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """The times of both stages; what both do, such as the features, took the sum."""
    return {name: first.get(name, 0.0) + second.get(name, 0.0) for name in {**first, **second}}
