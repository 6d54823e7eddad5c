"""Padding masks for batches of sequences with different lengths."""

import jax.numpy as jnp

from rnnjax.types import Array


def padding_mask(xs: Array, lengths: Array | None, name: str = "xs", axis: str = "T") -> Array:
  """Return the padding mask [T, ...] of xs [T, ..., D]: True at valid steps, False at padding.

  Args:
    xs: sequences [T, ..., D]; only their shape is used.
    lengths: valid steps of each row [...], integer; None if every row has T. If xs also has spatial
      axes, such as [T, B, X, Y, D], lengths may have the shape [B].
    name: name of xs in the error message.
    axis: symbol of the time axis in the error message, e.g. "T".

  Raises:
    ValueError: lengths has a non-integer dtype, or its shape differs from the batch shape of xs.
  """
  batch_shape = xs.shape[1:-1]
  steps = jnp.arange(xs.shape[0]).reshape(-1, *(1,) * len(batch_shape))
  if lengths is None:
    return jnp.broadcast_to(steps >= 0, xs.shape[:-1])
  lengths = jnp.asarray(lengths)
  # max(1, ...) rejects a scalar length for a batch.
  expected_shape = batch_shape[: max(1, lengths.ndim)]
  if lengths.shape != expected_shape or not jnp.issubdtype(lengths.dtype, jnp.integer):
    raise ValueError(
      f"lengths must be integers of the batch shape {batch_shape} of {name} {xs.shape}, which is "
      f"time-major [{axis}, *batch, D]; got {lengths.dtype} {lengths.shape}. Is {name} batch-major?"
    )
  lengths = lengths.reshape(*lengths.shape, *(1,) * (len(batch_shape) - lengths.ndim))
  return jnp.broadcast_to(steps < lengths[None], xs.shape[:-1])
