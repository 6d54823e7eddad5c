"""All steps at once, for cells whose state is linear in the one before: Martin & Cundy,
Parallelizing Linear Recurrent Neural Nets over Sequence Length, 2018.

    sₜ = aₜ ⊙ sₜ₋₁ + bₜ

A tree of depth log T (`rnnjax.backends.linear_scan`) replaces T sequential steps. Nothing
is divided in it: where |a| ≤ 1 its numbers are as tame as the states, and need no logarithm. Of a
minGRU over 2,000 steps in float32 it is off by up to 2e-6, cumulative sums of logarithms by up to
2e-3.
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.backends.batch_sharding import cast_to_varying, shard_over_batch
from rnnjax.backends.linear_scan import parallel_linear_scan, shift_one_step
from rnnjax.backends.scan import project_steps, where_mask
from rnnjax.cells.base import Cell, pack_carry, unpack_state
from rnnjax.types import Array, Carry, Params


def requires_linear(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Of a backend that runs linear recurrences alone."""
  del params, xs, carry
  if cell.coefficients:
    return ""
  return (
    f"it runs linear recurrences, hₜ = aₜ ⊙ hₜ₋₁ + bₜ, and {cell} is none; backend='scan' runs it"
  )


def associative(
  cell: Cell, params: Params, xs: Array, mask: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """As `scan`, for a cell of the form of `linear`, in log T rounds of all steps.

  Not differentiable in forward mode (jvp): `scan` is. Where the batch is cut along a mesh each
  device takes its own rows, and they meet once, to add up the weight gradients.
  """

  def run(params, xs, mask, carry):
    params, carry = (cast_to_varying(tree, xs) for tree in (params, carry))
    u = project_steps(cell, params, xs)
    # vmap over the steps: each function sees the axes of one step, as in the loop.
    a, b = jax.vmap(functools.partial(_coefficients, cell, params))(u)
    a, b = where_mask(mask, (a, b), (jnp.ones_like(a), jnp.zeros_like(b)))  # s stands still
    ss = scan_states(reverse, a, b, unpack_state(carry).astype(b.dtype))
    ys = jax.vmap(cell.readout, (None, 0, 0))(params, ss, u)
    h = last_output(ys, mask, carry[0], reverse)
    carry = pack_carry(h, ss[0 if reverse else -1], carry)
    return carry, where_mask(mask, ys, jnp.zeros_like(ys))

  return shard_over_batch(run)(params, xs, mask, carry)


def _coefficients(cell, params, u):
  """a and b of one step, in the shape of b."""
  a, b = cell.coefficients(params, u)
  return jnp.broadcast_to(a, b.shape), b


def last_output(ys: Array, mask: Array | None, h: Array, reverse: bool) -> Array:
  """y [..., H] where each row ends, of ys [T, ..., H]; h where it has no step."""
  if mask is None:
    return ys[0 if reverse else -1]
  steps = mask.sum(0)
  end = jnp.zeros_like(steps) if reverse else jnp.maximum(steps - 1, 0)
  y = jnp.take_along_axis(ys, end[None, ..., None], 0)[0]
  return where_mask(steps > 0, y, h)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan_states(reverse: bool, a: Array, b: Array, s: Array) -> Array:
  """s₁ ... s_T of sₜ = aₜ ⊙ sₜ₋₁ + bₜ, from s₀ [..., N] on: a, b [T, ..., N] -> [T, ..., N].

  The way back is such a recurrence too, in the other direction:

      dsₜ = ∂L/∂sₜ + aₜ₊₁ ⊙ dsₜ₊₁
      daₜ = dsₜ ⊙ sₜ₋₁,  dbₜ = dsₜ
  """
  first = -1 if reverse else 0
  return parallel_linear_scan(a, b.at[first].add(a[first] * s), reverse)


def _forward(reverse, a, b, s):
  ss = scan_states(reverse, a, b, s)
  return ss, (a, s, ss)


def _backward(reverse, saved, dss):
  a, s, ss = saved
  ds = parallel_linear_scan(shift_one_step(jnp.zeros_like(s), a, not reverse), dss, not reverse)
  first = -1 if reverse else 0
  return ds * shift_one_step(s, ss, reverse), ds, a[first] * ds[first]


scan_states.defvjp(_forward, _backward)
