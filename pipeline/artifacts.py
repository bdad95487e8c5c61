"""The pipeline's own artifact types, beside TFX's standard ones; named as Kubeflow wants it: module.Class."""

from tfx.types.artifact import Artifact


class Lookup(Artifact):
    """Parquet files for people.

    ``histories*`` (user_id, features, item_ids, times) and ``items*`` (item_id, description).
    """

    TYPE_NAME = "twotower.Lookup"


class Summary(Artifact):
    """JSON files that the report reads."""

    TYPE_NAME = "twotower.Summary"


class CandidateIndex(Artifact):
    """The SavedModels ``scann`` and ``portable``, each with the catalogue's embeddings inside."""

    TYPE_NAME = "twotower.CandidateIndex"


class RecommendationLists(Artifact):
    """Parquet files of ``batch.SCHEMA`` and their ``batch.json``; empty where nothing was pushed."""

    TYPE_NAME = "twotower.RecommendationLists"


OWN = (Lookup, Summary, CandidateIndex, RecommendationLists)
