"""Compose: features, towers, index and ranker into one recommender, once with each index."""

import logging
import time
from pathlib import Path

import tensorflow as tf
from tfx import v1 as tfx
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from twotower.features.spec import Spec
from twotower.models.moments import training_end
from twotower.models.transformed import Transformed
from twotower.pipeline.artifacts import CandidateIndex
from twotower.pipeline.build_index import KINDS
from twotower.serving import servable
from twotower.serving.recommender import Recommender
from twotower.serving.requests import RequestTransform

progress = logging.getLogger("twotower.progress")


@tfx.dsl.components.component
def Compose(  # noqa: N802 (a component's name)
    retrieval: tfx.dsl.components.InputArtifact[standard_artifacts.Model],
    ranking: tfx.dsl.components.InputArtifact[standard_artifacts.Model],
    index: tfx.dsl.components.InputArtifact[CandidateIndex],
    transform_graph: tfx.dsl.components.InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: tfx.dsl.components.InputArtifact[standard_artifacts.Examples],
    servables: tfx.dsl.components.OutputArtifact[standard_artifacts.Model],
    spec: tfx.dsl.components.Parameter[str],
) -> None:
    """Save the recommender twice under one version: with the ScaNN index, and with the portable one."""
    whole = Spec.model_validate_json(spec)
    data = Transformed(whole, transform_graph.uri, transformed_examples.uri)
    ids = data.item_ids()
    reference_time = training_end(whole.split, data.users("train").history)
    towers = tf.saved_model.load(path_utils.serving_model_path(retrieval.uri))
    ranker = tf.saved_model.load(path_utils.serving_model_path(ranking.uri))
    version = int(time.time())
    for kind in KINDS:
        transform = RequestTransform(
            whole,
            data.output.transform_features_layer(),
            data.query_encodings,
            data.item_encodings,
            len(ids),
            reference_time,
        )
        searcher = servable.load(Path(index.uri, kind))
        recommender = Recommender(whole, transform, towers, searcher, ranker, ids)
        card = {
            "name": whole.name,
            "version": version,
            "index": kind,
            "items": len(ids),
            "reference_time": reference_time,
            "notice": whole.notice,
            "spec": whole.model_dump(mode="json", by_alias=True),
        }
        servable.save(recommender, Path(servables.uri, kind), card)
        progress.info(f"recommender with the {kind} index: version {version}")
