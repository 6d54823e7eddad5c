"""Rows of different length in one array: which steps are alive."""

import jax.numpy as jnp

from rnnjax.types import Array


def alive(xs: Array, lengths: Array | None, name: str = "xs", axis: str = "T") -> Array:
  """True [T, ...] where a step of xs [T, ..., D] lies before its row's length [...].

  Everywhere, where lengths is None.

  Raises:
    ValueError: lengths are not integers, one for each row; it calls xs and T by name and axis.
  """
  steps, batch = jnp.arange(xs.shape[0]).reshape(-1, *(1,) * (xs.ndim - 2)), xs.shape[1:-1]
  if lengths is None:
    return jnp.broadcast_to(steps >= 0, xs.shape[:-1])
  lengths = jnp.asarray(lengths)
  if lengths.shape != batch or not jnp.issubdtype(lengths.dtype, jnp.integer):
    raise ValueError(
      f"lengths must be integers of the batch shape {batch} of {name} {xs.shape}, which is "
      f"time-major [{axis}, *batch, D]; got {lengths.dtype} {lengths.shape}. Is {name} batch-major?"
    )
  return steps < lengths[None]
