"""What the last blessed run left: the model that a warm start goes on from, and the statistics that drift is from.

TFX's LatestBlessedModelStrategy knows one model a pipeline, which the Evaluator blesses. Here a run has two models and
CheckServable blesses what was composed of both, so the way back is followed through the metadata.
"""

from __future__ import annotations

from collections.abc import Mapping

from ml_metadata.proto import metadata_store_pb2
from tfx import types
from tfx.dsl.components.common.resolver import Resolver, ResolverStrategy
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

CURRENT, MODEL, STATISTICS = "current", "model", "statistics"
Artifacts = Mapping[str, list[types.Artifact]]


class LastBlessedStrategy(ResolverStrategy):  # type: ignore[misc]
    """Picks, of all retrieval models and statistics, those of the newest blessed run over other data.

    A run that is repeated over the same data would otherwise go on from itself, and nothing would be cached.
    """

    def resolve_artifacts(self, store: object, input_dict: Artifacts) -> dict[str, list[types.Artifact]]:
        """The artifacts by key; empty lists where nothing was blessed yet."""
        own = {artifact.id for artifact in input_dict[CURRENT]}
        lineage = Lineage(store)
        models, statistics = ({one.id: one for one in input_dict[key]} for key in (MODEL, STATISTICS))
        for blessing in sorted(input_dict["blessing"], key=lambda artifact: -int(artifact.id)):
            if not blessing.get_int_custom_property("blessed"):
                continue
            composed = lineage.made_of(blessing.id, "composed")
            model = lineage.made_of(composed, "retrieval")
            examples = lineage.made_of(composed, "examples")
            seen = next((one for one in statistics if lineage.made_of(one, "examples") == examples), None)
            if model in models and seen is not None and examples not in own:
                return {**{key: [] for key in input_dict}, MODEL: [models[model]], STATISTICS: [statistics[seen]]}
        return {key: [] for key in input_dict}


class Lineage:
    """What an artifact was made of, by the store's events."""

    def __init__(self, store: object) -> None:
        artifacts = [artifact.id for artifact in store.get_artifacts()]  # type: ignore[attr-defined]
        self._inputs: dict[tuple[int, str], int] = {}
        self._maker: dict[int, int] = {}
        for event in store.get_events_by_artifact_ids(artifacts):  # type: ignore[attr-defined]
            key = next((step.key for step in event.path.steps if step.HasField("key")), "")
            if event.type == metadata_store_pb2.Event.OUTPUT:
                # An execution that the cache answered has the same inputs.
                self._maker.setdefault(event.artifact_id, event.execution_id)
            elif event.type == metadata_store_pb2.Event.INPUT:
                self._inputs[event.execution_id, key] = event.artifact_id

    def made_of(self, artifact: int | None, key: str) -> int | None:
        """The input ``key`` of the execution that made an artifact; None where there is none."""
        return None if artifact is None else self._inputs.get((self._maker.get(artifact, -1), key))


def last_blessed(examples: types.BaseChannel) -> Resolver:
    """The pipeline's node; its outputs ``model`` and ``statistics`` are empty before a first blessing.

    Args:
        examples: this run's.
    """
    return Resolver(
        strategy_class=LastBlessedStrategy,
        current=examples,
        model=_all(standard_artifacts.Model, "Trainer.retrieval", "model"),
        statistics=_all(standard_artifacts.ExampleStatistics, "StatisticsGen", "statistics"),
        blessing=_all(standard_artifacts.ModelBlessing, "CheckServable", "blessing"),
    ).with_id("LastBlessed")


def _all(kind: type[types.Artifact], step: str, key: str) -> types.Channel:
    return Channel(type=kind, producer_component_id=step, output_key=key)
