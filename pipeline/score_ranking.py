"""The ranker's predictions on test lists, as examples for TFMA: one a candidate, with label, weight and slices."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts
from tfx.utils import path_utils

from twotower.features.records import Record, serialize
from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.moments import request_times
from twotower.models.queries import Queries
from twotower.models.ranking_lists import build_lists, list_features
from twotower.models.transformed import Transformed

# Users whose lists TFMA reads, where retrieval found what they buy; a few hundred lists give the AUC to three digits.
USERS = 1000
# Lists that are scored at a time.
BLOCK = 32


@component
def ScoreRanking(  # noqa: N802 (a component's name)
    retrieval: InputArtifact[standard_artifacts.Model],
    ranking: InputArtifact[standard_artifacts.Model],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    examples: OutputArtifact[standard_artifacts.Examples],
    spec: Parameter[str],
) -> None:
    """Rank what retrieval returns when a user asks, and write each candidate with what became of it."""
    whole = Spec.model_validate_json(spec)
    data = Transformed(whole, transform_graph.uri, transformed_examples.uri)
    catalogue, users = data.catalogue(), data.asked()
    moments, asked = request_times(whole.split, users.labels), users.with_labels_as_history()
    queries = Queries(whole, asked, len(catalogue))
    retriever = TowerRetriever(path_utils.serving_model_path(retrieval.uri), catalogue, queries)
    ranker = tf.saved_model.load(path_utils.serving_model_path(ranking.uri))
    retrieve = retriever.best(whole.ranking.candidates)
    end = int(asked.history.times.max()) + 1
    lists = build_lists(whole, asked, len(catalogue), [moments], end, retrieve, whole.seed, USERS)
    folder = Path(examples.uri, "Split-eval")
    folder.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(folder / "predictions.tfrecord.gz"), options="GZIP") as writer:
        for start in range(0, len(lists), BLOCK):
            block = tf.range(start, min(start + BLOCK, len(lists)))
            features = list_features(queries, lists, block, whole.ranking.history_length)
            candidates = features.pop("candidates")
            scores = ranker.score(features, candidates)
            for place, row in enumerate(block.numpy()):
                own = asked.history.items[asked.history.offsets[lists.users[row]] : lists.cuts[row]]
                repeat = np.isin(lists.candidates[row], own)
                for column in np.flatnonzero(lists.weight[row] > 0):
                    record: Record = {
                        "bought": [float(lists.bought[row, column])],
                        "bought_probability": [float(scores["bought"][place, column])],
                        "weight": [float(lists.weight[row, column])],
                        "candidate": [b"bought before" if repeat[column] else b"new"],
                    }
                    writer.write(serialize(record))
    examples.split_names = artifact_utils.encode_split_names(["eval"])
    examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
