"""Synthetic memory tasks: data and plots of `experiments.memory`."""
