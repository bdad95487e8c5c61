"""SchemaGen and ExampleValidator over splits that hold different kinds of examples, by TensorFlow Data Validation.

TFX's own components expect every split to have the same features, and go on after an anomaly. Here users
and items share one schema, whose environments say which split has what, and an anomaly stops the run.
"""

from pathlib import Path

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2, statistics_pb2
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact
from tfx.dsl.component.experimental.decorators import component
from tfx.types import Artifact, artifact_utils, standard_artifacts
from tfx.utils import io_utils

from twotower.features.errors import InputError

ANOMALIES = "SchemaDiff.pb"
# Share of a label's values that an inferred vocabulary must cover; new values appear in every shop.
MIN_DOMAIN_MASS = 0.9


@component
def SchemaGen(  # noqa: N802 (TFX's name for the step)
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    schema: OutputArtifact[standard_artifacts.Schema],
) -> None:
    """Infer one schema from all splits; a feature belongs to the environments of the splits that have it."""
    merged = schema_pb2.Schema()
    features: dict[str, schema_pb2.Feature] = {}
    splits = artifact_utils.decode_split_names(statistics.split_names)
    present: dict[str, list[str]] = {}
    for split in splits:
        inferred = tfdv.infer_schema(split_statistics(statistics, split), infer_feature_shape=False)
        for domain in inferred.string_domain:
            if domain.name not in {known.name for known in merged.string_domain}:
                merged.string_domain.append(domain)
        for feature in inferred.feature:
            present.setdefault(feature.name, []).append(split)
            if feature.name not in features:
                features[feature.name] = feature
            elif feature.presence.min_fraction < 1:
                # Required in one split only is not required.
                features[feature.name].presence.ClearField("min_fraction")
    merged.default_environment.extend(splits)
    for name, feature in sorted(features.items()):
        feature.not_in_environment.extend(split for split in splits if split not in present[name])
        if feature.HasField("domain"):
            feature.distribution_constraints.min_domain_mass = MIN_DOMAIN_MASS
        merged.feature.append(feature)
    io_utils.write_pbtxt_file(str(Path(schema.uri, "schema.pbtxt")), merged)


@component
def ExampleValidator(  # noqa: N802 (TFX's name for the step)
    statistics: InputArtifact[standard_artifacts.ExampleStatistics],
    schema: InputArtifact[standard_artifacts.Schema],
    anomalies: OutputArtifact[standard_artifacts.ExampleAnomalies],
) -> None:
    """Hold every split against the schema, in its own environment.

    Raises:
        InputError: naming the split, the feature and what is wrong with it.
    """
    expected = tfdv.load_schema_text(str(Path(schema.uri, "schema.pbtxt")))
    splits = artifact_utils.decode_split_names(statistics.split_names)
    problems = []
    for split in splits:
        # A reviewed schema may know no environments: then it holds for every split.
        environment = split if split in expected.default_environment else None
        found = tfdv.validate_statistics(split_statistics(statistics, split), expected, environment=environment)
        folder = Path(anomalies.uri, f"Split-{split}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ANOMALIES).write_bytes(found.SerializeToString())
        problems += [
            f"split {split}, feature '{name}': {info.short_description}: {info.description}"
            for name, info in sorted(found.anomaly_info.items())
        ]
    anomalies.split_names = artifact_utils.encode_split_names(splits)
    if problems:
        raise InputError("the data does not fit its schema: " + "; ".join(problems))


def read_anomalies(folder: Path) -> dict[str, anomalies_pb2.Anomalies]:
    """The anomalies that ``ExampleValidator`` wrote, by split."""
    found = {}
    for file in sorted(folder.glob(f"Split-*/{ANOMALIES}")):
        found[file.parent.name.removeprefix("Split-")] = anomalies_pb2.Anomalies.FromString(file.read_bytes())
    return found


def split_statistics(artifact: Artifact, split: str) -> statistics_pb2.DatasetFeatureStatisticsList:
    """What StatisticsGen wrote of one split."""
    folder = artifact_utils.get_split_uri([artifact], split)
    return tfdv.load_stats_binary(str(Path(folder, "FeatureStats.pb")))
