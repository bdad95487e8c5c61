"""Index: the candidate tower over the whole catalogue, searched by ScaNN and by plain TensorFlow."""

import logging
from pathlib import Path

import numpy as np
import tensorflow as tf
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.moments import training_end
from twotower.models.queries import Queries
from twotower.models.top_k import top_k_products
from twotower.models.transformed import Transformed
from twotower.pipeline.artifacts import CandidateIndex
from twotower.pipeline.servable_folders import KINDS
from twotower.serving.index import build_index
from twotower.serving.index.base import FloatMatrix
from twotower.serving.index.export import IndexExport

progress = logging.getLogger("twotower.progress")

RECALL_AT = 100
QUERIES = 500


@component
def BuildIndex(  # noqa: N802 (a component's name)
    model: InputArtifact[standard_artifacts.Model],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    index: OutputArtifact[CandidateIndex],
    spec: Parameter[str],
) -> None:
    """Embed every item once and save both indexes; say their recall against exact search on real queries."""
    whole = Spec.model_validate_json(spec)
    data = Transformed(whole, transform_graph.uri, transformed_examples.uri)
    catalogue, users = data.catalogue(), data.users("train")
    retriever = TowerRetriever(
        path_utils.serving_model_path(model.uri), catalogue, Queries(whole, users, len(catalogue))
    )
    rows = np.random.default_rng(whole.seed).permutation(len(users))[:QUERIES]
    queries = retriever.embed_latest(rows, training_end(whole.split, users.history))
    build_indexes(whole, retriever.items, queries, Path(index.uri))


def build_indexes(spec: Spec, items: FloatMatrix, queries: FloatMatrix, out: Path) -> None:
    """Save an index of each kind over vectors [items, dim] into a folder of ``out``, tuned on queries [m, dim]."""
    k = min(RECALL_AT, len(items))
    truth = top_k_products(queries, items, k)
    for kind in KINDS:
        built = build_index(
            items,
            kind,
            seed=spec.seed,
            queries=queries,
            exact_below=spec.serving.exact_below,
            precision=spec.serving.embeddings,
        )
        # As a graph: op by op, many queries take the portable index long.
        export = IndexExport(built)
        _, found = export.search(tf.constant(queries), tf.constant(k))
        hits = sum(len(np.intersect1d(a, b)) for a, b in zip(truth, found.numpy(), strict=True))
        progress.info(f"{kind} index of {len(items):,} items, recall@{k} {hits / truth.size:.4f}")
        options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"])
        tf.saved_model.save(export, str(out / kind), options=options)
