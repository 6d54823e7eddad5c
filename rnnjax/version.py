"""Version number of rnnjax; setup.cfg reads it from here without importing jax."""

__version__ = "0.1.0"
