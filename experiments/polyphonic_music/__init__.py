"""Polyphonic music: data, model and plots of `experiments.music`."""
