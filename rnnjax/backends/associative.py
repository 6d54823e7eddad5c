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

from rnnjax.backends.batch_sharding import on_own_rows, varying
from rnnjax.backends.linear_scan import at_once, shifted
from rnnjax.backends.scan import freeze, project_steps
from rnnjax.cells.base import Cell, carried, state
from rnnjax.types import Array, Carry, Params


def unless_linear(cell: Cell, params: Params, xs: Array, carry: Carry) -> str:
  """Of a backend that runs linear recurrences alone."""
  del params, xs, carry
  if cell.linear:
    return ""
  return (
    f"it runs linear recurrences, hₜ = aₜ ⊙ hₜ₋₁ + bₜ, and {cell} is none; backend='scan' runs it"
  )


def associative(
  cell: Cell, params: Params, xs: Array, alive: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """As `scan`, for a cell of the form of `linear`, in log T rounds of all steps.

  Not differentiable in forward mode (jvp): `scan` is. Where the batch is cut along a mesh each
  device takes its own rows, and they meet once, to add up the weight gradients.
  """

  def run(params, xs, alive, carry):
    params, carry = (varying(tree, xs) for tree in (params, carry))
    u = project_steps(cell, params, xs)
    # vmap over the steps: each function sees the axes of one step, as in the loop.
    a, b = jax.vmap(functools.partial(_coefficients, cell, params))(u)
    a, b = freeze(alive, (a, b), (jnp.ones_like(a), jnp.zeros_like(b)))  # s stands still
    ss = states(reverse, a, b, state(carry).astype(b.dtype))
    ys = jax.vmap(cell.read, (None, 0, 0))(params, ss, u)
    h = last(ys, alive, carry[0], reverse)
    carry = carried(h, ss[0 if reverse else -1], carry)
    return carry, freeze(alive, ys, jnp.zeros_like(ys))

  return on_own_rows(run)(params, xs, alive, carry)


def _coefficients(cell, params, u):
  """a and b of one step, in the shape of b."""
  a, b = cell.linear(params, u)
  return jnp.broadcast_to(a, b.shape), b


def last(ys: Array, alive: Array | None, h: Array, reverse: bool) -> Array:
  """y [..., H] where each row ends, of ys [T, ..., H]; h where it has no step."""
  if alive is None:
    return ys[0 if reverse else -1]
  steps = alive.sum(0)
  end = jnp.zeros_like(steps) if reverse else jnp.maximum(steps - 1, 0)
  y = jnp.take_along_axis(ys, end[None, ..., None], 0)[0]
  return freeze(steps > 0, y, h)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def states(reverse: bool, a: Array, b: Array, s: Array) -> Array:
  """s₁ ... s_T of sₜ = aₜ ⊙ sₜ₋₁ + bₜ, from s₀ [..., N] on: a, b [T, ..., N] -> [T, ..., N].

  The way back is such a recurrence too, in the other direction:

      dsₜ = ∂L/∂sₜ + aₜ₊₁ ⊙ dsₜ₊₁
      daₜ = dsₜ ⊙ sₜ₋₁,  dbₜ = dsₜ
  """
  first = -1 if reverse else 0
  return at_once(a, b.at[first].add(a[first] * s), reverse)


def _forward(reverse, a, b, s):
  ss = states(reverse, a, b, s)
  return ss, (a, s, ss)


def _backward(reverse, saved, dss):
  a, s, ss = saved
  ds = at_once(shifted(jnp.zeros_like(s), a, not reverse), dss, not reverse)
  first = -1 if reverse else 0
  return ds * shifted(s, ss, reverse), ds, a[first] * ds[first]


states.defvjp(_forward, _backward)
