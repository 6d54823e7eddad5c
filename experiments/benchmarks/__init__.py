"""Implementations, timing and plots that the speed benchmarks share."""
