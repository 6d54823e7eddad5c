"""Speech to face motion: data, metrics and plots of `experiments.lips`."""
