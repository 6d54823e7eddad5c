"""Data and plots for the synthetic memory tasks of `experiments.memory`."""
