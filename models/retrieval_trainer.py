"""TFX Trainer's entry point for the retrieval model that the spec names."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tfx import v1 as tfx

from twotower.features.spec import Spec
from twotower.models.contract import TrainingData
from twotower.models.exports import TowersExport
from twotower.models.retrievers import fit
from twotower.models.transformed import Transformed


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Fit on the ``train`` split and export the towers over transformed features."""
    spec = Spec.model_validate_json(fn_args.custom_config["spec"])
    data = Transformed(spec, fn_args.transform_graph_path, str(Path(fn_args.train_files[0]).parent.parent))
    towers = fit(TrainingData(spec, data.catalogue(), data.users("train"), data.n_users, Path(fn_args.model_run_dir)))
    length = spec.retrieval.history_length
    export = TowersExport(towers, data.query_encodings, data.item_encodings, length, spec.serving.embeddings)
    tf.saved_model.save(export, fn_args.serving_model_dir)
