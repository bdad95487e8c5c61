"""Batch recommendation as a step: everybody's lists by the version that the run pushed."""

import logging
from pathlib import Path

import apache_beam as beam
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from twotower.pipeline.artifacts import Lookup, RecommendationLists
from twotower.pipeline.batch import recommend_all
from twotower.pipeline.pushed import pushed

progress = logging.getLogger("twotower.progress")


@component(use_beam=True)
def BatchRecommend(  # noqa: N802 (a component's name)
    pushed_model: InputArtifact[standard_artifacts.PushedModel],
    lookup: InputArtifact[Lookup],
    lists: OutputArtifact[RecommendationLists],
    k: Parameter[int],
    push_folder: Parameter[str],
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Write the lists of all users whose history the run knows; none where nothing was pushed."""
    if not pushed_model.get_int_custom_property("pushed"):
        progress.info("nothing was pushed: no lists")
        return
    version = int(pushed_model.get_string_custom_property("pushed_version"))
    histories = sorted(Path(lookup.uri).glob("histories*"))
    counts = recommend_all(pushed(Path(push_folder), version), histories, None, k, Path(lists.uri), beam_pipeline)
    progress.info(f"lists of {counts['users']:,} users, {counts['items']:,} items in them")
