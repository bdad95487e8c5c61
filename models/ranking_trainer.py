"""TFX Trainer's entry point for the ranker; its base model is the retrieval model whose candidates it ranks."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tfx import v1 as tfx

from twotower.features.spec import Spec
from twotower.models.candidates import TowerRetriever
from twotower.models.exports import RankingExport
from twotower.models.queries import DAY, Queries
from twotower.models.ranking import Ranking, RankingNetwork, item_statistics
from twotower.models.ranking_lists import build_lists, training_dataset
from twotower.models.training import Progress, progress
from twotower.models.transformed import Transformed


def run_fn(fn_args: tfx.components.FnArgs) -> None:
    """Train on lists of the ``train`` split and export the ranker over transformed features."""
    spec = Spec.model_validate_json(fn_args.custom_config["spec"])
    choice = spec.ranking
    data = Transformed(spec, fn_args.transform_graph_path, str(Path(fn_args.train_files[0]).parent.parent))
    catalogue, train = data.catalogue(), data.users("train")
    queries = Queries(spec, train, len(catalogue))
    retriever = TowerRetriever(fn_args.base_model, catalogue, queries)
    snapshots = [
        spec.split.start - (choice.horizon_days + number * choice.snapshot_days) * DAY
        for number in range(choice.snapshots)
    ]
    lists = build_lists(
        spec, train, len(catalogue), snapshots, spec.split.start, retriever.best(choice.candidates), spec.seed
    )
    progress.info(f"{len(lists):,} lists at {len(snapshots)} snapshots, {int(lists.bought.sum()):,} positives")
    tf.keras.utils.set_random_seed(spec.seed)
    statistics = item_statistics(train.history, spec.split.start, len(catalogue))
    network = RankingNetwork(data.query_encodings, catalogue, statistics, units=choice.units)
    model = Ranking(network, spec)
    model.compile(optimizer=tf.keras.optimizers.Adam(choice.learning_rate))
    steps = -(-len(lists) // choice.batch_size)
    candidates = choice.batch_size * choice.list_size
    model.fit(
        training_dataset(spec, queries, lists, spec.seed),
        epochs=choice.epochs,
        verbose=0,
        callbacks=[Progress(choice.epochs, steps, candidates, fn_args.model_run_dir)],
    )
    tf.saved_model.save(RankingExport(network, data.query_encodings), fn_args.serving_model_dir)
