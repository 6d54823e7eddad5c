"""The version, read by setup.cfg without importing jax."""

__version__ = "0.1.0"
