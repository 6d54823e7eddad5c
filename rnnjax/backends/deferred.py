"""Backpropagation through time that defers the weights.

The gradient of the carry must wait for time; that of the weights need not. So the backward loop
only carries dh back, and the weight gradients come after it, in products over many steps at once:

    dzₜ = ∂L/∂zₜ                 in the loop, for it needs dhₜ
    dU = Σₜ hₜ₋₁ᵀ dzₜ            after it, one product [H, TB] [TB, GH] instead of T small ones
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.backends.batch_sharding import cast_to_varying, shard_over_batch
from rnnjax.backends.deferred_vjp import (
  backward_additive,
  backward_generic,
  cell_preactivations,
  tree_add,
)
from rnnjax.backends.scan import project_steps, where_mask
from rnnjax.backends.select import DeferredOptions, choose_options
from rnnjax.cells.base import Cell, accumulation_dtype
from rnnjax.types import Array, Carry, Params


def deferred(
  cell: Cell,
  params: Params,
  xs: Array,
  mask: Array | None,
  carry: Carry,
  reverse: bool,
  options: DeferredOptions | None = None,
) -> tuple[Carry, Array]:
  """As `scan`, for any cell, with the weight gradients in products after the backward loop.

  Not differentiable in forward mode (jvp): `scan` is. Where the batch is cut along a mesh each
  device runs the loop over its own rows, and they meet once, to add up the weight gradients.

  Args:
    cell, params, xs, alive, carry, reverse: as for `scan`.
    how: what is saved and in what chunks; what `plan` finds best where it is None.
  """

  def run(params, xs, mask, carry):
    params, carry = (cast_to_varying(tree, xs) for tree in (params, carry))
    return _run(cell, options or choose_options(cell, params, xs), reverse, params, xs, mask, carry)

  return shard_over_batch(run)(params, xs, mask, carry)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _run(cell, options, reverse, params, xs, mask, carry):
  return _forward(cell, options, reverse, params, xs, mask, carry)[0]


def _forward(cell, options, reverse, params, xs, mask, carry):
  """The loop, and what the way back needs: each step's carry, and the gates where saved."""
  feed, project = xs, functools.partial(cell.project, params)
  if options.precompute_inputs:
    feed, project = project_steps(cell, params, xs), lambda u: u

  def tick(carry, inputs):
    x, alive = inputs
    u, z = project(x), None
    if cell.pointwise:
      z = cell_preactivations(cell, params, u, carry[0])
      new, y = cell.pointwise(params, carry, z)
    else:
      new, y = cell.step(params, carry, u)
    saved = z if options.save_gates else None
    return where_mask(alive, new, carry), (where_mask(alive, y, jnp.zeros_like(y)), carry, saved)

  steps = (feed, mask)
  end, (ys, before, zs) = jax.lax.scan(tick, carry, steps, reverse=reverse, unroll=options.unroll)
  return (end, ys), (params, (xs, mask, before, zs))


def _backward(cell, options, reverse, saved, cotangents):
  """Chunk by chunk: the loop back, then the weights' share of these steps."""
  params, steps = saved
  dcarry, dys = cotangents
  T, K = dys.shape[0], options.chunk_size or dys.shape[0]
  back = (backward_additive if cell.pointwise else backward_generic)(
    cell, params, reverse, K, options
  )

  def chunk(carry, first):
    dcarry, dparams = carry
    try:
      dcarry, new, dxs = back(first, dcarry, *steps, dys)
    except Exception as error:
      error.add_note(f"This happened when one step of {cell} was differentiated.")
      raise
    return (dcarry, tree_add(dparams, new)), dxs

  zero = jax.tree.map(lambda p: jnp.zeros_like(p, accumulation_dtype(p.dtype)), params)
  first = jnp.arange(0, T, K)
  (dcarry, dparams), dxs = jax.lax.scan(chunk, (dcarry, zero), first, reverse=not reverse)
  dparams = jax.tree.map(lambda d, p: d.astype(p.dtype), dparams, params)
  return dparams, dxs.reshape(T, *dxs.shape[2:]), None, dcarry


_run.defvjp(_forward, _backward)
