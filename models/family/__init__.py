"""The models that the two towers are compared with, under the same contract."""
