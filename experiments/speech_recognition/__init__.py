"""Spoken words: data and plots of `experiments.speech`."""
