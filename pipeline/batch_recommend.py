"""Batch recommendation as a step: everybody's lists by the version that the run pushed."""

import logging
from pathlib import Path

import apache_beam as beam
from tfx import v1 as tfx
from tfx.types import standard_artifacts

from twotower.pipeline.artifacts import Lookup, RecommendationLists
from twotower.pipeline.batch import recommend_all
from twotower.pipeline.pushed import pushed

progress = logging.getLogger("twotower.progress")


@tfx.dsl.components.component(use_beam=True)
def BatchRecommend(  # noqa: N802 (a component's name)
    pushed_model: tfx.dsl.components.InputArtifact[standard_artifacts.PushedModel],
    lookup: tfx.dsl.components.InputArtifact[Lookup],
    lists: tfx.dsl.components.OutputArtifact[RecommendationLists],
    k: tfx.dsl.components.Parameter[int],
    push_folder: tfx.dsl.components.Parameter[str],
    beam_pipeline: tfx.dsl.components.BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Write the lists of all users whose history the run knows; none where nothing was pushed."""
    if not pushed_model.get_int_custom_property("pushed"):
        progress.info("nothing was pushed: no lists")
        return
    version = int(pushed_model.get_string_custom_property("pushed_version"))
    histories = sorted(Path(lookup.uri).glob("histories*"))
    counts = recommend_all(pushed(Path(push_folder), version), histories, None, k, Path(lists.uri), beam_pipeline)
    progress.info(f"lists of {counts['users']:,} users, {counts['items']:,} items in them")
