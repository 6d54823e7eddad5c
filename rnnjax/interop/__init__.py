"""Weights and vectors from and to other programs."""
