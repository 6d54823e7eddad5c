"""Digits as sequences: data and plots of `experiments.digits`."""
