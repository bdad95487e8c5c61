"""Retrieval evaluation: the full catalogue, ranked exactly, beside the baselines; and the blessing."""

import logging
from pathlib import Path

import numpy as np
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from twotower.features.spec import Spec
from twotower.models.baselines import BoughtMostOften, Popularity
from twotower.models.candidates import TowerRetriever
from twotower.models.queries import Queries
from twotower.models.transformed import Transformed
from twotower.pipeline import blessing as blessings
from twotower.pipeline.artifacts import Summary
from twotower.pipeline.evaluator import Evaluator

progress = logging.getLogger("twotower.progress")

# Users embedded at a time.
EMBEDDED = 1024


@component
def EvaluateRetrieval(  # noqa: N802 (a component's name)
    model: InputArtifact[standard_artifacts.Model],
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    blessing: OutputArtifact[standard_artifacts.ModelBlessing],
    summary: OutputArtifact[Summary],
    spec: Parameter[str],
) -> None:
    """Score retrieval and the baselines; bless a retrieval model that beats popularity on the spec's metric."""
    whole = Spec.model_validate_json(spec)
    data = Transformed(whole, transform_graph.uri, transformed_examples.uri)
    evaluator = Evaluator(whole, data)
    train, asked, n_items = evaluator.train, evaluator.asked, len(evaluator.catalogue)
    retriever = TowerRetriever(
        path_utils.serving_model_path(model.uri), evaluator.catalogue, Queries(whole, asked, n_items)
    )
    popularity = Popularity(train.history, n_items)
    often = BoughtMostOften(train.history, asked.history, n_items)

    blocks = np.array_split(np.arange(len(asked)), -(-len(asked) // EMBEDDED))
    queries = np.concatenate([retriever.embed_latest(rows, evaluator.request_times[rows]) for rows in blocks])
    evaluator.measure("popularity", lambda p, task: p.rank_scores(popularity.score_block, task))
    evaluator.measure("bought most often", lambda p, task: p.rank_scores(often.score_block, task), ["all"])
    evaluator.measure("retrieval", lambda p, task: p.rank_vectors(queries, retriever.items, task))
    found = evaluator.scores
    found.save(Path(summary.uri, "scores.json"))
    chosen = whole.evaluation
    ours = found.find("retrieval", evaluator.main, chosen.retrieval_task)
    baseline = found.find("popularity", evaluator.main, chosen.retrieval_task)
    assert ours is not None
    assert baseline is not None
    metric = f"{chosen.metric}@{chosen.cutoffs[0]}"
    which = "products new to the user" if chosen.retrieval_task == "new" else "all purchases"
    verdict = f"retrieval {metric} {ours.of(metric):.4f} on {which}, popularity {baseline.of(metric):.4f}"
    progress.info(verdict)
    blessings.write(blessing, ours.of(metric) > baseline.of(metric), verdict)
