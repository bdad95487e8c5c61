"""The pipeline's own artifact types, beside TFX's standard ones."""

from tfx.types.artifact import Artifact


class Lookup(Artifact):
    """Parquet files for people.

    ``histories*`` (user_id, features, item_ids, times) and ``items*`` (item_id, description).
    """

    TYPE_NAME = "TwotowerLookup"


class Summary(Artifact):
    """JSON files that the report reads."""

    TYPE_NAME = "TwotowerSummary"


class CandidateIndex(Artifact):
    """``embeddings.npy`` [items, dim], the SavedModels ``scann`` and ``portable``, and ``recall.json``."""

    TYPE_NAME = "TwotowerCandidateIndex"
