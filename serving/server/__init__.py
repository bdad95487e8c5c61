"""A model server that speaks TensorFlow Serving's protocol; needs TensorFlow, never TFX or Beam."""
