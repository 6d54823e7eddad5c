"""Speech recognition: data and plots of `experiments.speech`."""
