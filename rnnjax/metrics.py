"""Metrics as sums: a mean of means would depend on how the data was cut into batches."""

from typing import NamedTuple

import jax.numpy as jnp

from rnnjax.types import Array


class Mean(NamedTuple):
  """A mean on its way: Σ weight·value and Σ weight, summed over batches, hosts and padding."""

  total: Array | float
  weight: Array | float

  def __add__(self, other):
    return Mean(self.total + other.total, self.weight + other.weight)

  @property
  def value(self) -> float:
    """Σ weight·value / Σ weight; nan where nothing was weighed."""
    return float(self.total) / float(self.weight) if float(self.weight) else float("nan")


def mean(values: Array, weights: Array) -> Mean:
  """The Mean of values under weights, both of one shape."""
  return Mean(jnp.sum(values * weights), jnp.sum(weights))
