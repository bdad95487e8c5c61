"""Compose: features, towers, index and ranker into the servables of one version."""

import logging
import time
from pathlib import Path

import tensorflow as tf
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from twotower.features.spec import Spec
from twotower.models.moments import training_end
from twotower.models.transformed import Transformed
from twotower.pipeline import raw_items, servables
from twotower.pipeline.artifacts import CandidateIndex
from twotower.serving.item_ids import ItemIds

progress = logging.getLogger("twotower.progress")


@component
def Compose(  # noqa: N802 (a component's name)
    retrieval: InputArtifact[standard_artifacts.Model],
    ranking: InputArtifact[standard_artifacts.Model],
    index: InputArtifact[CandidateIndex],
    examples: InputArtifact[standard_artifacts.Examples],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    composed: OutputArtifact[standard_artifacts.Model],
    spec: Parameter[str],
) -> None:
    """Save the servables under one version, with the ScaNN index and with the portable one."""
    whole = Spec.model_validate_json(spec)
    data = Transformed(whole, transform_graph.uri, transformed_examples.uri)
    ids = ItemIds(data.item_ids_file)
    by_id = raw_items.of_run(Path(artifact_utils.get_split_uri([examples], "items")))
    parts = servables.Parts(
        data=data,
        towers=tf.saved_model.load(path_utils.serving_model_path(retrieval.uri)),
        ranker=tf.saved_model.load(path_utils.serving_model_path(ranking.uri)),
        index=Path(index.uri),
        ids=ids,
        n_items=ids.size,
        trained_rows=None,
        raw=raw_items.attributes(whole, [by_id[name] for name in data.item_ids()]),
        reference_time=training_end(whole.split, data.users("train").history),
    )
    version = int(time.time())
    servables.save(whole, parts, version, Path(composed.uri))
    progress.info(f"{whole.serving.shape} recommender with each index: version {version}")
