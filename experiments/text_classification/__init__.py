"""Data, n-gram features and pretraining for the text classifier `experiments.imdb`."""
