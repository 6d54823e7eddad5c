"""Shared code of the experiments `translate`, `summarize`, `pronounce` and `bottleneck`."""
