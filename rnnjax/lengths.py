"""Rows of different length in one array: which steps are alive."""

import jax.numpy as jnp

from rnnjax.types import Array


def checked(lengths: Array, xs: Array, name: str = "xs", axis: str = "T") -> Array:
  """Lengths as an array.

  Raises:
    ValueError: they are not integers, one for each row of xs [T, ..., D].
  """
  lengths, batch = jnp.asarray(lengths), xs.shape[1:-1]
  if lengths.shape != batch or not jnp.issubdtype(lengths.dtype, jnp.integer):
    raise ValueError(
      f"lengths must be integers of the batch shape {batch} of {name} {xs.shape}, which is "
      f"time-major [{axis}, *batch, D]; got {lengths.dtype} {lengths.shape}. Is {name} batch-major?"
    )
  return lengths


def alive(xs: Array, lengths: Array | None) -> Array:
  """True [T, ...] where a step of xs [T, ..., D] lies before its row's length [...].

  Everywhere, where lengths is None.
  """
  steps = jnp.arange(xs.shape[0]).reshape(-1, *(1,) * (xs.ndim - 2))
  if lengths is None:
    return jnp.broadcast_to(steps >= 0, xs.shape[:-1])
  return steps < lengths[None]
