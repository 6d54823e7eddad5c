"""NVIDIA's own LSTM, behind the same parameters: cuDNN, through `jax.experimental.rnn`."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from rnnjax.backends.base import call_outside_trace
from rnnjax.backends.batch_sharding import cast_to_varying, shard_over_batch
from rnnjax.backends.scan import scan
from rnnjax.cells import lstm
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params


def why_unavailable(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Why cuDNN cannot run this here; "" where it can."""
  del params, carry
  if cell.pointwise is not lstm(cell.features).pointwise:
    return f"cuDNN, as jax reaches it, has a plain LSTM alone; got {cell}"
  if xs.dtype != jnp.float32:
    return f"cuDNN, as jax reaches it, computes in float32; got {xs.dtype}"
  if jax.default_backend() != "gpu":
    return f"cuDNN needs an NVIDIA GPU; this is {jax.default_backend()}"
  if not max_gradient_error() <= 1e-5:
    return f"cuDNN, as jax reaches it here, is not the loop: gradients differ by {max_gradient_error():.1g}"
  return ""


@functools.cache
def max_gradient_error() -> float:
  """How far cuDNN's gradients are from those of the loop, relative to the largest: once a process,
  on a few rows, for it is a library that may change under the same name."""
  cell, T, B, D = lstm(8), 7, 3, 5

  def measured():
    keys = jax.random.split(jax.random.key(0), 2)
    params, xs = cell.init(keys[0], D), jax.random.normal(keys[1], (T, B, D))
    alive = jnp.arange(T)[:, None] < jnp.array([[7, 0, 3]])

    def loss(params, xs, run):
      carry, ys = run(cell, params, xs, alive, cell.initial_carry(xs[0]), True)
      return jnp.sin(ys).sum() + sum(jnp.cos(c).sum() for c in carry)

    gradients = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    with jax.default_matmul_precision("highest"):
      return jax.device_get([jax.tree.leaves(gradients(params, xs, run)) for run in (cudnn, scan)])

  ours, plain = call_outside_trace(measured)
  # numpy's maximum does not pass NaN by
  return float(np.max([abs(a - b).max() / max(1, abs(b).max()) for a, b in zip(ours, plain)]))


def pack_weights(params: Params) -> Array:
  """The weights in cuDNN's order: Wᵀ, Uᵀ, and two biases, of which the second is 0."""
  W, U, b = (params[name] for name in ("W", "U", "b"))
  return jnp.concatenate([W.T.ravel(), U.T.ravel(), b, jnp.zeros_like(b)])


def flip_sequences(a: Array, lengths: Array) -> Array:
  """Each row's living steps of a [T, B, ...] from the last to the first; the others stay."""
  steps, lengths = jnp.arange(len(a))[:, None], lengths[None]
  at = jnp.where(steps < lengths, lengths - 1 - steps, steps)
  return jnp.take_along_axis(a, at[..., None], 0)


def constrain_row_major(a: Array) -> Array:
  """a, and its cotangent, row by row in memory.

  cuDNN reads memory so, and jax does not tell XLA (0.11): it would take a transpose for a layout.
  """
  return with_layout_constraint(a, Layout(tuple(range(a.ndim))))


def cudnn(
  cell: Cell, params: Params, xs: Array, mask: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """As `scan`, for a plain LSTM in float32 on an NVIDIA GPU."""

  def run(params, xs, mask, carry):
    params, carry = (cast_to_varying(tree, xs) for tree in (params, carry))
    return _run(cell, params, xs, mask, carry, reverse)

  return shard_over_batch(run)(params, xs, mask, carry)


def _run(cell, params, xs, mask, carry, reverse):
  from jax.experimental import rnn

  T, *batch, D = xs.shape
  B, H = math.prod(batch), cell.features
  rows = lambda a: a.reshape(T, B, *a.shape[1 + len(batch) :])
  lengths = jnp.full(B, T) if mask is None else rows(mask).sum(0)
  xs = rows(xs)
  if reverse:
    xs = flip_sequences(xs, lengths)
  start = [c.reshape(1, B, H) for c in carry]
  # cuDNN wants a step in each row; what it makes of a row that has none is not looked at.
  counts = jnp.maximum(lengths, 1).astype(jnp.int32)
  ys, *end = rnn.lstm(
    constrain_row_major(xs.swapaxes(0, 1)),
    *map(constrain_row_major, start),
    pack_weights(params),
    counts,
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
    ys = jnp.where(rows(mask)[..., None], ys, 0)
    end = [jnp.where(lengths[:, None] > 0, e, s) for e, s in zip(end, start)]
  return tuple(e.reshape(*batch, H) for e in end), ys.reshape(T, *batch, H)
