"""Retrieval evaluation: the full catalogue, ranked exactly, beside the baselines; and the blessing."""

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tfx import v1 as tfx
from tfx.types import standard_artifacts
from tfx.utils import path_utils

from twotower.features.spec import Spec
from twotower.models.baselines import BoughtMostOften, Popularity
from twotower.models.candidates import TowerRetriever
from twotower.models.queries import Queries
from twotower.models.transformed import Transformed
from twotower.pipeline import blessing as blessings
from twotower.pipeline import scores
from twotower.pipeline.artifacts import Summary

progress = logging.getLogger("twotower.progress")


@tfx.dsl.components.component
def EvaluateRetrieval(  # noqa: N802 (a component's name)
    model: tfx.dsl.components.InputArtifact[standard_artifacts.Model],
    transform_graph: tfx.dsl.components.InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: tfx.dsl.components.InputArtifact[standard_artifacts.Examples],
    blessing: tfx.dsl.components.OutputArtifact[standard_artifacts.ModelBlessing],
    summary: tfx.dsl.components.OutputArtifact[Summary],
    spec: tfx.dsl.components.Parameter[str],
) -> None:
    """Score the towers and the baselines; bless towers that beat popularity on products new to the user."""
    whole = Spec.model_validate_json(spec)
    data = Transformed(whole, transform_graph.uri, transformed_examples.uri)
    catalogue, train, asked = data.catalogue(), data.users("train"), data.users("eval")
    n_items = len(catalogue)
    sets = scores.protocols(whole, train, asked, n_items)
    retriever = TowerRetriever(path_utils.serving_model_path(model.uri), catalogue, Queries(whole, asked, n_items))
    popularity = Popularity(train.history, n_items)
    often = BoughtMostOften(train.history, asked.history, n_items)

    def towers(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return retriever.embed_latest(rows, whole.split.start) @ retriever.items.T

    found = [
        *scores.score("popularity", sets, lambda p, task: p.evaluate_scores(popularity.score_block, task)),
        *scores.score("bought most often", sets, lambda p, _: p.evaluate_scores(often.score_block, "all"), ["all"]),
        *scores.score("retrieval", sets, lambda p, task: p.evaluate_scores(towers, task)),
    ]
    scores.save(found, Path(summary.uri, "scores.json"))
    main = whole.evaluation.candidates[0].name
    ours = scores.find(found, "retrieval", main, "new")
    baseline = scores.find(found, "popularity", main, "new")
    assert ours is not None
    assert baseline is not None
    k = whole.evaluation.cutoff
    verdict = f"retrieval NDCG@{k} {ours.ndcg:.4f} on new products, popularity {baseline.ndcg:.4f}"
    progress.info(verdict)
    blessings.write(blessing, ours.ndcg > baseline.ndcg, verdict)
