"""Question answering over stories: data and model of `experiments.reading`."""
