"""Tests, in folders that mirror rnnjax/ and experiments/."""
