"""Export a trained run with `python -m experiments.export DIR`."""
