"""Backpropagation through time that defers the weights.

The gradient of the carry must wait for time; that of the weights need not. So the backward loop
only carries dh back, and the weight gradients come after it, in products over many steps at once:

    dzₜ = ∂L/∂zₜ                 in the loop, for it needs dhₜ
    dU = Σₜ hₜ₋₁ᵀ dzₜ            after it, one product [H, TB] [TB, GH] instead of T small ones
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.backends.batch_sharding import on_own_rows, varying
from rnnjax.backends.deferred_vjp import add, back_any, back_pointwise, entering
from rnnjax.backends.scan import freeze, project_steps
from rnnjax.backends.select import Plan, plan
from rnnjax.cells.base import Cell, wide
from rnnjax.types import Array, Carry, Params


def deferred(
  cell: Cell,
  params: Params,
  xs: Array,
  alive: Array | None,
  carry: Carry,
  reverse: bool,
  how: Plan | None = None,
) -> tuple[Carry, Array]:
  """As `scan`, for any cell, with the weight gradients in products after the backward loop.

  Not differentiable in forward mode (jvp): `scan` is. Where the batch is cut along a mesh each
  device runs the loop over its own rows, and they meet once, to add up the weight gradients.

  Args:
    cell, params, xs, alive, carry, reverse: as for `scan`.
    how: what is saved and in what chunks; what `plan` finds best where it is None.
  """

  def run(params, xs, alive, carry):
    params, carry = (varying(tree, xs) for tree in (params, carry))
    return _run(cell, how or plan(cell, params, xs), reverse, params, xs, alive, carry)

  return on_own_rows(run)(params, xs, alive, carry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _run(cell, how, reverse, params, xs, alive, carry):
  return _forward(cell, how, reverse, params, xs, alive, carry)[0]


def _forward(cell, how, reverse, params, xs, alive, carry):
  """The loop, and what the way back needs: each step's carry, and the gates where saved."""
  feed, project = xs, functools.partial(cell.project, params)
  if how.hoist:
    feed, project = project_steps(cell, params, xs), lambda u: u

  def tick(carry, inputs):
    x, alive = inputs
    u, z = project(x), None
    if cell.pointwise:
      z = entering(cell, params, u, carry[0])
      new, y = cell.pointwise(params, carry, z)
    else:
      new, y = cell.step(params, carry, u)
    saved = z if how.save else None
    return freeze(alive, new, carry), (freeze(alive, y, jnp.zeros_like(y)), carry, saved)

  steps = (feed, alive)
  end, (ys, before, zs) = jax.lax.scan(tick, carry, steps, reverse=reverse, unroll=how.unroll)
  return (end, ys), (params, (xs, alive, before, zs))


def _backward(cell, how, reverse, saved, cotangents):
  """Chunk by chunk: the loop back, then the weights' share of these steps."""
  params, steps = saved
  dcarry, dys = cotangents
  T, K = dys.shape[0], how.chunk or dys.shape[0]
  back = (back_pointwise if cell.pointwise else back_any)(cell, params, reverse, K, how)

  def chunk(carry, first):
    dcarry, dparams = carry
    try:
      dcarry, new, dxs = back(first, dcarry, *steps, dys)
    except Exception as error:
      error.add_note(f"This happened when one step of {cell} was differentiated.")
      raise
    return (dcarry, add(dparams, new)), dxs

  zero = jax.tree.map(lambda p: jnp.zeros_like(p, wide(p.dtype)), params)
  first = jnp.arange(0, T, K)
  (dcarry, dparams), dxs = jax.lax.scan(chunk, (dcarry, zero), first, reverse=not reverse)
  dparams = jax.tree.map(lambda d, p: d.astype(p.dtype), dparams, params)
  return dparams, dxs.reshape(T, *dxs.shape[2:]), None, dcarry


_run.defvjp(_forward, _backward)
