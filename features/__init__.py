"""What users, items and interactions are: the spec, the tables, the histories, the tf.Transform graph.

TFRS needs Keras 2 (``tf-keras``), and TensorFlow chooses its Keras by an environment variable that it
reads on the first use of ``tf.keras``. This package is the ground floor that every other one imports,
so the choice is made here and nowhere else.
"""

import os

os.environ["TF_USE_LEGACY_KERAS"] = "1"
