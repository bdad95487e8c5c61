"""The TFX pipeline, built from a spec and folders alone: the same graph for every runner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tensorflow_model_analysis as tfma
from ml_metadata.proto import metadata_store_pb2
from tfx.components import Evaluator, Pusher, StatisticsGen, Trainer, Transform
from tfx.components.schema_gen.import_schema_gen.component import ImportSchemaGen
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.orchestration.pipeline import Pipeline
from tfx.proto.pusher_pb2 import PushDestination
from tfx.proto.transform_pb2 import SplitsConfig
from tfx.types import channel

from twotower.features.model_choices import TwoTower
from twotower.features.spec import Spec
from twotower.pipeline import servable_folders
from twotower.pipeline.batch_recommend import BatchRecommend
from twotower.pipeline.beam_options import IN_MEMORY
from twotower.pipeline.build_index import BuildIndex
from twotower.pipeline.check_servable import CheckServable
from twotower.pipeline.compose import Compose
from twotower.pipeline.drift import DriftValidator, logs_fingerprint
from twotower.pipeline.evaluate_retrieval import EvaluateRetrieval
from twotower.pipeline.ingest_step import Ingest
from twotower.pipeline.last_blessed import last_blessed
from twotower.pipeline.pusher import AtomicPusher
from twotower.pipeline.score_ranking import ScoreRanking
from twotower.pipeline.validation import ExampleValidator, SchemaGen
from twotower.pipeline.worker import cluster_folder


def build(spec: Spec, out: Path, fingerprint: str, beam_args: Sequence[str] = IN_MEMORY) -> Pipeline:
    """The pipeline of ``spec``, with its artifacts, metadata and pushed models under ``out``; touches no file.

    Args:
        spec: its paths are those that the steps will see.
        out: likewise.
        fingerprint: names the state of the tables; another one makes Ingest run again.
        beam_args: say where its Beam steps run.
    """
    ingest = Ingest(spec=_json(spec, keep=()), fingerprint=fingerprint)
    examples = ingest.outputs["examples"]
    statistics = StatisticsGen(examples=examples)
    if spec.schema_file is None:
        schema_step = SchemaGen(statistics=statistics.outputs["statistics"])
    else:
        schema_step = ImportSchemaGen(schema_file=spec.schema_file)
    schema = schema_step.outputs["schema"]
    validator = ExampleValidator(statistics=statistics.outputs["statistics"], schema=schema)
    transform = Transform(
        examples=examples,
        schema=schema,
        preprocessing_fn="twotower.features.preprocessing.preprocessing_fn",
        custom_config={"spec": _json(spec, keep=())},
        disable_statistics=True,
        splits_config=SplitsConfig(analyze=["train", "items"], transform=["train", "eval", "items"]),
    )
    # Where steps run side by side, an anomaly stops what follows, too.
    transform.add_upstream_node(validator)
    transformed = {
        "transform_graph": transform.outputs["transform_graph"],
        "transformed_examples": transform.outputs["transformed_examples"],
    }
    warm = isinstance(spec.retrieval, TwoTower) and spec.retrieval.warm_start
    last = last_blessed(examples) if warm or spec.drift is not None else None
    base = last.outputs["model"] if last is not None and warm else None
    drift = None
    if last is not None and spec.drift is not None:
        drift = DriftValidator(
            statistics=statistics.outputs["statistics"],
            transform_graph=transformed["transform_graph"],
            last=last.outputs["statistics"],
            spec=_json(spec, keep=("retrieval", "ranking", "drift")),
            logs=logs_fingerprint(spec.drift),
        )
    retrieval_spec = _json(spec, keep=("retrieval", "serving.embeddings"))
    retrieval_trainer = _trainer("retrieval", transformed, retrieval_spec, base_model=base, cluster=_cluster(spec, out))
    retrieval = retrieval_trainer.outputs["model"]
    index = BuildIndex(model=retrieval, spec=_json(spec, keep=("retrieval", "serving")), **transformed)
    retrieval_evaluation = EvaluateRetrieval(
        model=retrieval, spec=_json(spec, keep=("retrieval", "evaluation")), **transformed
    )
    ranking_spec = _json(spec, keep=("retrieval", "ranking"))
    ranking_trainer = _trainer("ranking", transformed, ranking_spec, base_model=retrieval)
    ranking = ranking_trainer.outputs["model"]
    ranking_scores = ScoreRanking(retrieval=retrieval, ranking=ranking, spec=ranking_spec, **transformed)
    evaluator = Evaluator(
        examples=ranking_scores.outputs["examples"],
        model=ranking,
        eval_config=eval_config(spec.evaluation.min_auc),
        example_splits=["eval"],
        module_path="twotower.pipeline.ranking_extractors",
    )
    compose = Compose(
        retrieval=retrieval,
        ranking=ranking,
        index=index.outputs["index"],
        examples=examples,
        spec=_json(spec, keep=("retrieval", "ranking", "serving")),
        **transformed,
    )
    check = CheckServable(
        composed=compose.outputs["composed"],
        examples=examples,
        retrieval_blessing=retrieval_evaluation.outputs["blessing"],
        retrieval_scores=retrieval_evaluation.outputs["summary"],
        ranking_blessing=evaluator.outputs["blessing"],
        spec=_json(spec, keep=("retrieval", "ranking", "evaluation", "serving")),
        push_folder=str(push_folder(out)),
        **({} if drift is None else {"drift": drift.outputs["drift"]}),
        **transformed,
    )
    pusher = _pusher(spec, out, compose.outputs["composed"], check)
    batch = []
    if spec.batch is not None:
        pushed, lookup = pusher.outputs["pushed_model"], ingest.outputs["lookup"]
        folder = str(push_folder(out))
        batch.append(BatchRecommend(pushed_model=pushed, lookup=lookup, k=spec.batch.k, push_folder=folder))
    return Pipeline(
        pipeline_name=spec.name,
        pipeline_root=str(out / "pipeline"),
        metadata_connection_config=_metadata(out / "metadata.sqlite"),
        components=[
            ingest,
            statistics,
            schema_step,
            validator,
            transform,
            *(step for step in (last, drift) if step is not None),
            retrieval_trainer,
            index,
            retrieval_evaluation,
            ranking_trainer,
            ranking_scores,
            evaluator,
            compose,
            check,
            pusher,
            *batch,
        ],
        enable_cache=True,
        beam_pipeline_args=list(beam_args),
    )


def push_folder(out: Path) -> Path:
    """Where the pushed models are: one folder a servable, one sub-folder a version."""
    return out / "serving"


def eval_config(min_auc: float) -> tfma.EvalConfig:
    """What TFMA computes on the ranker's predictions, over all and by whether the item was bought before."""
    config = tfma.EvalConfig()
    config.options.include_default_metrics.value = False
    config.model_specs.add(label_key="bought", prediction_key="bought_probability", example_weight_key="weight")
    config.slicing_specs.add()
    config.slicing_specs.add(feature_keys=["candidate"])
    metrics = config.metrics_specs.add()
    metrics.metrics.add(class_name="ExampleCount")
    metrics.metrics.add(class_name="Calibration")
    auc = metrics.metrics.add(class_name="AUC")
    auc.threshold.value_threshold.lower_bound.value = min_auc
    return config


def _metadata(file: Path) -> metadata_store_pb2.ConnectionConfig:
    """The store in ``file``; TFX's own function would make its folder, also where a pipeline is only compiled."""
    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = str(file)
    config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return config


def _json(spec: Spec, *, keep: tuple[str, ...]) -> str:
    """The spec for a step, without the sections that it does not read.

    So a changed ranker does not undo the cache of the steps before it.
    """
    sections = {
        "retrieval", "ranking", "evaluation", "serving", "batch", "schema_file", "kubeflow", "drift", "retention",
    }  # fmt: skip
    exclude: dict[str, Any] = dict.fromkeys(sections - set(keep), True)
    if "serving.embeddings" in keep:
        exclude["serving"] = set(type(spec.serving).model_fields) - {"embeddings"}
    return str(spec.model_dump_json(by_alias=True, exclude=exclude))


def _cluster(spec: Spec, out: Path) -> dict[str, str]:
    """Where the chief meets those who train with it, if it does not train alone."""
    alone = not isinstance(spec.retrieval, TwoTower) or spec.retrieval.distribution is None
    return {} if alone else {"cluster_folder": str(cluster_folder(out))}


def _trainer(
    name: str,
    transformed: dict[str, channel.BaseChannel],
    spec: str,
    base_model: channel.BaseChannel | None = None,
    cluster: Mapping[str, str] = MappingProxyType({}),
) -> Trainer:
    return Trainer(
        run_fn=f"twotower.models.{name}_trainer.run_fn",
        examples=transformed["transformed_examples"],
        transform_graph=transformed["transform_graph"],
        base_model=base_model,
        custom_config={"spec": spec, **cluster},
    ).with_id(f"Trainer.{name}")


def pushed_folders(spec: Spec, out: Path) -> dict[str, str]:
    """Where the versions of each composed servable are pushed, in that order."""
    return {name: str(push_folder(out) / folder) for name, folder in servable_folders.folders(spec.serving).items()}


def _pusher(spec: Spec, out: Path, composed: channel.BaseChannel, check: BaseComponent) -> Pusher:
    folders = pushed_folders(spec, out)
    return AtomicPusher(
        model=composed,
        model_blessing=check.outputs["blessing"],
        infra_blessing=check.outputs["infra_blessing"],
        custom_config={"folders": folders},
        push_destination=PushDestination(
            filesystem=PushDestination.Filesystem(base_directory=folders[spec.serving.index])
        ),
    ).with_id("Pusher")
