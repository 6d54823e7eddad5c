"""Data and model for the question answering experiment `experiments.reading`."""
