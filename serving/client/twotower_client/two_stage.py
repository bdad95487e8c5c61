"""A recommender whose two stages are servables of their own, behind the calls of the composed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import Any

import grpc
import numpy.typing as npt

from . import wire_pb2 as wire
from .errors import NotFoundError
from .inputs import query_columns
from .recommender import Recommender, query_inputs, whole_k
from .replies import candidate_ids, item_lists, timings
from .rules import rule_columns
from .types import FeatureValue, Query, Recommendation, Rules, Time

#: Inputs of a rule over the ranked list, which the first stage does not take.
_RANKED_RULES = ("cap_", "boost_", "diversity")


class TwoStageRecommender:
    """Asks the first stage for candidates, and the same version of the second stage for their list.

    The stages are the models ``<model_name>_retrieval`` and ``<model_name>_ranking``. Where the version that the first
    stage answered by has left the second meanwhile, both are asked once more. Errors are those of `Recommender`.

    Args:
        target: where the first stage is served, as for `Recommender`.
        ranking_target: where the second stage is; None: at the same place.
        model_name: what both models' names begin with.
        timeout: seconds per call, for both stages together, unless the call says otherwise.
        credentials: for TLS; None connects without.
    """

    def __init__(
        self,
        target: str,
        ranking_target: str | None = None,
        model_name: str = "recommender",
        timeout: float = 2.0,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._timeout = timeout
        self.retrieval = Recommender(target, f"{model_name}_retrieval", timeout, credentials)
        self.ranking = Recommender(ranking_target or target, f"{model_name}_ranking", timeout, credentials)

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
        """Return the k best items for one user, as `Recommender.recommend` does."""
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
        """Return one list per query, as `Recommender.recommend_many` does, by one request to each stage."""
        columns = {**query_columns(queries, exclude), **rule_columns(queries), "k": whole_k(k)}
        if not queries:
            return []
        deadline = monotonic() + (self._timeout if timeout is None else timeout)
        try:
            return self._ask(queries, columns, timings, deadline)
        except NotFoundError:
            return self._ask(queries, columns, timings, deadline)

    def close(self) -> None:
        """Close both connections."""
        self.retrieval.close()
        self.ranking.close()

    def __enter__(self) -> TwoStageRecommender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(
        self, queries: Sequence[Query], columns: Mapping[str, npt.NDArray[Any]], timed: bool, deadline: float
    ) -> list[Recommendation]:
        suffix = "_timed" if timed else ""
        first = {name: column for name, column in columns.items() if not name.startswith(_RANKED_RULES)}
        found = self.retrieval.predict(
            f"candidates{suffix}",
            lambda specs: query_inputs(f"candidates{suffix}", queries, first, specs),
            max(deadline - monotonic(), 0),
        )
        second = {name: column for name, column in columns.items() if name not in first or name in _OF_BOTH}
        second["candidate_item_ids"] = candidate_ids(found)
        reply = self.ranking.predict(
            f"order{suffix}",
            lambda specs: query_inputs(f"order{suffix}", queries, second, specs),
            max(deadline - monotonic(), 0),
            found.model_spec.version.value,
        )
        return [
            replace(answer, timings=_together(found, row, answer.timings)) if timed else answer
            for row, answer in enumerate(item_lists(reply))
        ]


#: What both stages are told.
_OF_BOTH = ("user_id", "history_item_ids", "history_times", "time", "k")


def _together(found: wire.PredictResponse, row: int, ranking: Mapping[str, float]) -> dict[str, float]:
    """The times of both stages; what both do, such as the features, took the sum."""
    retrieval = timings(found, row)
    return {name: retrieval.get(name, 0.0) + ranking.get(name, 0.0) for name in {**retrieval, **ranking}}
