"""Lip sync: data, metrics and plots of `experiments.lips`."""
