"""Speed benchmarks: timing, peer libraries and plots of `experiments.benchmark`."""
