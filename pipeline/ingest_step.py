"""Ingest as a step of the TFX pipeline."""

import json
from pathlib import Path

import apache_beam as beam
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import artifact_utils, standard_artifacts

from twotower.features.spec import Spec
from twotower.pipeline import ingest
from twotower.pipeline.artifacts import Lookup, Summary


@component(use_beam=True)
def Ingest(  # noqa: N802 (a component's name)
    examples: OutputArtifact[standard_artifacts.Examples],
    lookup: OutputArtifact[Lookup],
    summary: OutputArtifact[Summary],
    spec: Parameter[str],
    fingerprint: Parameter[str],
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
) -> None:
    """Read, check, join and split the tables; also what a person looks up: histories and item descriptions."""
    del fingerprint  # only there for the cache
    counts = ingest.run(Spec.model_validate_json(spec), Path(examples.uri), Path(lookup.uri), beam_pipeline)
    examples.split_names = artifact_utils.encode_split_names(list(ingest.SPLITS))
    examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
    Path(summary.uri, "counts.json").write_text(json.dumps(counts, indent=1, sort_keys=True), encoding="utf-8")
