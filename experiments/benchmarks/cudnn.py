"""NVIDIA's LSTM (cuDNN), called through `jax.experimental.rnn` with rnnjax's parameters.

Only the benchmark uses cuDNN. It takes 1.1 to 7 times as long as the faster of the backends
`triton` and `deferred` on an H100 (T = 512; B = 64 and 256, H = 128 to 1024).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from rnnjax.backends.interface import call_outside_trace, cast_to_varying, shard_over_batch
from rnnjax.backends.scan import scan
from rnnjax.cells import lstm
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params


def why_unavailable(cell: Cell, xs: Array) -> str:
  """Return the reason why cuDNN cannot run this cell on xs; "" if cuDNN can run it."""
  if cell.pointwise is not lstm(cell.features).pointwise:
    return f"cuDNN, as called by jax, has the plain LSTM only; got {cell}"
  if xs.dtype != jnp.float32:
    return f"cuDNN, as called by jax, computes in float32; got {xs.dtype}"
  if jax.default_backend() != "gpu":
    return f"cuDNN needs an NVIDIA GPU; this is {jax.default_backend()}"
  error = max_gradient_error()
  if not error <= 1e-5:  # also true for NaN
    return (
      f"cuDNN, as called by jax here, does not agree with the loop: gradients differ by {error:.1g}"
    )
  return ""


@functools.cache
def max_gradient_error() -> float:
  """Return the largest relative error of cuDNN's gradients; the backend `scan` is the reference.

  The error of each array is divided by its largest absolute value or by 1, whichever is larger. The
  error is measured once per process on a few rows, because it may change with the cuDNN version.
  """
  cell, T, B, D = lstm(8), 7, 3, 5

  def compute_gradients():
    keys = jax.random.split(jax.random.key(0), 2)
    params, xs = cell.init(keys[0], D), jax.random.normal(keys[1], (T, B, D))
    mask = jnp.arange(T)[:, None] < jnp.array([[7, 0, 3]])

    def loss(params, xs, run):
      carry, ys = run(cell, params, xs, mask, cell.initial_carry(xs[0]), True)
      return jnp.sin(ys).sum() + sum(jnp.cos(c).sum() for c in carry)

    gradients = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    with jax.default_matmul_precision("highest"):
      return jax.device_get([jax.tree.leaves(gradients(params, xs, run)) for run in (cudnn, scan)])

  actual, expected = call_outside_trace(compute_gradients)
  errors = [abs(a - b).max() / max(1, abs(b).max()) for a, b in zip(actual, expected)]
  return float(np.max(errors))  # NumPy's maximum propagates NaN.


def pack_weights(params: Params) -> Array:
  """Return the parameters as a flat array in cuDNN's order: Wᵀ, Uᵀ, b, and a second bias of 0."""
  W, U, b = (params[name] for name in ("W", "U", "b"))
  return jnp.concatenate([W.T.ravel(), U.T.ravel(), b, jnp.zeros_like(b)])


def flip_sequences(a: Array, lengths: Array) -> Array:
  """Reverse the first `lengths` steps of each row of a [T, B, ...]; padding is unchanged."""
  steps, lengths = jnp.arange(len(a))[:, None], lengths[None]
  indices = jnp.where(steps < lengths, lengths - 1 - steps, steps)
  return jnp.take_along_axis(a, indices[..., None], 0)


def constrain_row_major(a: Array) -> Array:
  """Constrain `a` and its cotangent to a row-major memory layout.

  cuDNN requires this layout, but jax 0.11 does not pass the requirement to XLA. Without the
  constraint, XLA may implement a transpose as a change of layout.
  """
  return with_layout_constraint(a, Layout(tuple(range(a.ndim))))


def cudnn(
  cell: Cell, params: Params, xs: Array, mask: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """Run a float32 LSTM without options on an NVIDIA GPU; same arguments and results as `scan`."""

  def run(params, xs, mask, carry):
    params, carry = (cast_to_varying(tree, xs) for tree in (params, carry))
    return _run(cell, params, xs, mask, carry, reverse)

  return shard_over_batch(run)(params, xs, mask, carry)


def _run(cell, params, xs, mask, carry, reverse):
  from jax.experimental import rnn

  T, *batch, D = xs.shape
  B, H = math.prod(batch), cell.features

  def merge_batch_axes(a):
    return a.reshape(T, B, *a.shape[1 + len(batch) :])

  lengths = jnp.full(B, T) if mask is None else merge_batch_axes(mask).sum(0)
  xs = merge_batch_axes(xs)
  if reverse:
    xs = flip_sequences(xs, lengths)
  initial_carry = [c.reshape(1, B, H) for c in carry]
  # cuDNN needs at least one step in each row. The results for rows of length 0 are replaced below.
  num_steps = jnp.maximum(lengths, 1).astype(jnp.int32)
  ys, *final_carry = rnn.lstm(
    constrain_row_major(xs.swapaxes(0, 1)),
    *map(constrain_row_major, initial_carry),
    pack_weights(params),
    num_steps,
    D,
    H,
    1,
    0.0,
    False,
  )
  ys = constrain_row_major(ys).swapaxes(0, 1)
  if reverse:
    ys = flip_sequences(ys, lengths)
  if mask is not None:
    ys = jnp.where(merge_batch_axes(mask)[..., None], ys, 0)
    final_carry = [
      jnp.where(lengths[:, None] > 0, final, initial)
      for final, initial in zip(final_carry, initial_carry)
    ]
  return tuple(c.reshape(*batch, H) for c in final_carry), ys.reshape(T, *batch, H)
