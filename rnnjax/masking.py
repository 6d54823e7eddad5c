"""Rows of different length in one array: which steps are alive."""

import jax.numpy as jnp

from rnnjax.types import Array


def padding_mask(xs: Array, lengths: Array | None, name: str = "xs", axis: str = "T") -> Array:
  """Padding mask [T, ...] of xs [T, ..., D]: True at the steps before each row's length.

  True everywhere if lengths is None. Lengths of the leading batch axes alone, such as [B] for xs
  [T, B, X, Y, D], hold for all further axes.

  Raises:
    ValueError: lengths are not integers, one for each row; it calls xs and T by name and axis.
  """
  steps, batch = jnp.arange(xs.shape[0]).reshape(-1, *(1,) * (xs.ndim - 2)), xs.shape[1:-1]
  if lengths is None:
    return jnp.broadcast_to(steps >= 0, xs.shape[:-1])
  lengths = jnp.asarray(lengths)
  leading = batch[: max(1, lengths.ndim)]  # without lengths of a scalar for a batch
  if lengths.shape != leading or not jnp.issubdtype(lengths.dtype, jnp.integer):
    raise ValueError(
      f"lengths must be integers of the batch shape {batch} of {name} {xs.shape}, which is "
      f"time-major [{axis}, *batch, D]; got {lengths.dtype} {lengths.shape}. Is {name} batch-major?"
    )
  lengths = lengths.reshape(*lengths.shape, *(1,) * (len(batch) - lengths.ndim))
  return jnp.broadcast_to(steps < lengths[None], xs.shape[:-1])
