"""Every retrieval model, with settings that are small enough for a test: the list that suites run over."""

from __future__ import annotations

from typing import Any

# retrieval.model: the other keys of ``retrieval``.
MODELS: dict[str, dict[str, Any]] = {
    "two_tower": {
        "embedding_dim": 8,
        "tower_units": [8],
        "history_length": 8,
        "min_id_count": 1,
        "recency_half_life_days": 1000,
        "batch_size": 64,
        "uniform_negatives": 16,
        "epochs": 1,
        "events_per_epoch": 64 * 150,
        "learning_rate": 0.03,
    },
    "popularity": {},
    "item_cosine": {"factors": 8},
    "svd": {"factors": 1, "regularization": 1},
    "als": {"factors": 2},
    "nmf": {"factors": 2},
    "ease": {"factors": 6, "regularization": 10},
    "graph_tower": {"factors": 4},
    "mf": {"factors": 4, "sampled_items": 8, "batch_size": 32, "epochs": 20, "learning_rate": 0.05},
    "lightgcn": {"factors": 8, "sampled_items": 8, "batch_size": 64, "epochs": 15},
    "ultragcn": {
        "factors": 8,
        "neighbours": 3,
        "sampled_items": 8,
        "batch_size": 16,
        "epochs": 30,
        "learning_rate": 0.03,
    },
    "pinsage": {
        "factors": 8,
        "neighbours": 3,
        "min_id_count": 1,
        "id_dropout": 0.1,
        "batch_size": 32,
        "epochs": 5,
        "learning_rate": 0.01,
    },
}
# One list for everybody.
IMPERSONAL = {"popularity"}
# Users are known by their id alone, not by their history.
BY_ID = {"mf"}
