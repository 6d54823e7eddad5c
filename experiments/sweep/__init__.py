"""Hyperparameter sweeps: search spaces and the ranking of results."""
