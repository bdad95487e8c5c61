"""Towers, retrieval, ranking, losses, baselines and metrics."""

import twotower.features  # noqa: F401  (chooses tf-keras before TensorFlow is imported)
