"""Sequence tagging: data, features and predictor of `experiments.tagging`."""
