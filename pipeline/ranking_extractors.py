"""TFMA's extractors for predictions that are in the examples already.

``ScoreRanking`` has run the ranker on whole lists, which TFMA's one row an example cannot express.
"""

from __future__ import annotations

import tensorflow_model_analysis as tfma


def custom_extractors(
    eval_shared_model: object, eval_config: tfma.EvalConfig, tensor_adapter_config: object
) -> list[tfma.extractors.Extractor]:
    """Evaluator's hook: read labels, predictions and weights by the keys of the evaluation's config."""
    del eval_shared_model, tensor_adapter_config
    return [
        tfma.extractors.FeaturesExtractor(eval_config),
        tfma.extractors.LabelsExtractor(eval_config),
        tfma.extractors.ExampleWeightsExtractor(eval_config),
        tfma.extractors.PredictionsExtractor(eval_config),
        tfma.extractors.SliceKeyExtractor(),
    ]
