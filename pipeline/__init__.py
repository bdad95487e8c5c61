"""The TFX pipeline, its components and runner, the report and the command line."""

import twotower.features  # noqa: F401  (chooses tf-keras before TensorFlow is imported)
