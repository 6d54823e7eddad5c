"""Text classification: data, n-gram features and pretraining of `experiments.imdb`."""
