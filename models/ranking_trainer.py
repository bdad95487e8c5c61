"""TFX Trainer's entry point for the ranker that the spec names; its base model is the retrieval model it ranks for."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tfx.components.trainer.fn_args_utils import FnArgs

from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.exports import RankingExport
from twotower.models.queries import Queries
from twotower.models.rankers import fit
from twotower.models.ranking_contract import RankingData
from twotower.models.transformed import Transformed


def run_fn(fn_args: FnArgs) -> None:
    """Fit on the ``train`` split and export the ranker over transformed features."""
    spec = Spec.model_validate_json(fn_args.custom_config["spec"])
    data = Transformed(spec, fn_args.transform_graph_path, str(Path(fn_args.train_files[0]).parent.parent))
    catalogue, train = data.catalogue(), data.users("train")
    queries = Queries(spec, train, len(catalogue))
    retriever = TowerRetriever(fn_args.base_model, catalogue, queries)
    ranker = fit(RankingData(spec, catalogue, train, data.n_users, queries, retriever, Path(fn_args.model_run_dir)))
    tf.saved_model.save(RankingExport(ranker, data.query_encodings), fn_args.serving_model_dir)
