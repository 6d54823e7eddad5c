"""Rows of different length in one array: which steps are alive."""

import jax.numpy as jnp

from rnnjax.types import Array


def alive(xs: Array, lengths: Array | None) -> Array:
  """True [T, ...] where a step of xs [T, ..., D] lies before its row's length [...].

  Everywhere, where lengths is None.
  """
  steps = jnp.arange(xs.shape[0]).reshape(-1, *(1,) * (xs.ndim - 2))
  if lengths is None:
    return jnp.broadcast_to(steps >= 0, xs.shape[:-1])
  return steps < lengths[None]
