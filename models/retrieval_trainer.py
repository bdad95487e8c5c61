"""TFX Trainer's entry point for the retrieval model that the spec names; its base model is what it goes on from."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tfx import v1 as tfx

from twotower.features.model_choices import TwoTower
from twotower.features.spec import Spec
from twotower.models import warm_start
from twotower.models.contract import TrainingData
from twotower.models.exports import TowersExport
from twotower.models.retrievers import fit
from twotower.models.towers import CandidateTower, QueryTower
from twotower.models.transformed import Transformed


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Fit on the ``train`` split and export the towers over transformed features."""
    spec = Spec.model_validate_json(fn_args.custom_config["spec"])
    data = Transformed(spec, fn_args.transform_graph_path, str(Path(fn_args.train_files[0]).parent.parent))
    warm = None
    if isinstance(spec.retrieval, TwoTower) and spec.retrieval.warm_start:
        folder = Path(fn_args.base_model) if fn_args.base_model else None
        warm = warm_start.WarmStart(data.vocabularies(), folder)
    catalogue, train = data.catalogue(), data.users("train")
    towers = fit(TrainingData(spec, catalogue, train, data.n_users, Path(fn_args.model_run_dir), warm))
    if warm is not None and isinstance(spec.retrieval, TwoTower):
        assert isinstance(towers.query, QueryTower)
        assert isinstance(towers.candidate, CandidateTower)
        # Before the export, which may store less than what was trained.
        encodings = (*data.query_encodings, *data.item_encodings)
        left = warm_start.Base.of(towers.query, towers.candidate, spec.retrieval, encodings, warm.vocabularies)
        left.save(Path(fn_args.serving_model_dir, warm_start.FILE))
    length = spec.retrieval.history_length
    export = TowersExport(towers, data.query_encodings, data.item_encodings, length, spec.serving.embeddings)
    tf.saved_model.save(export, fn_args.serving_model_dir)
