"""TFX Trainer's entry point for the two towers."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tfx import v1 as tfx

from twotower.features.spec import Spec
from twotower.models.exports import TowersExport
from twotower.models.retrieval import Retrieval, TrainingEvents, build_towers, training_dataset
from twotower.models.training import Progress, progress
from twotower.models.transformed import Transformed


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Train on the ``train`` split and export the towers over transformed features."""
    spec = Spec.model_validate_json(fn_args.custom_config["spec"])
    choice = spec.retrieval
    data = Transformed(spec, fn_args.transform_graph_path, str(Path(fn_args.train_files[0]).parent.parent))
    catalogue, train = data.catalogue(), data.users("train")
    events = TrainingEvents.choose(spec, train, len(catalogue))
    progress.info(f"{len(events.events):,} events of {len(train):,} users, {len(catalogue):,} items")
    tf.keras.utils.set_random_seed(spec.seed)
    query, candidate = build_towers(spec, catalogue, train, data.n_users, events)
    model = Retrieval(query, candidate, catalogue, events.item_share, spec)
    model.compile(optimizer=tf.keras.optimizers.Adam(choice.learning_rate))
    steps = max(1, choice.events_per_epoch // choice.batch_size)
    model.fit(
        training_dataset(spec, train, len(catalogue), events, spec.seed),
        epochs=choice.epochs,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[Progress(choice.epochs, steps, choice.batch_size, fn_args.model_run_dir)],
    )
    export = TowersExport(query, candidate, data.query_encodings, data.item_encodings, choice.history_length)
    tf.saved_model.save(export, fn_args.serving_model_dir)
