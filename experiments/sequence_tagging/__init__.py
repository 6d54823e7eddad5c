"""Data, features and predictor for the sequence tagger `experiments.tagging`."""
