"""Export of trained runs: `python -m experiments.export DIR`."""
