"""The reference: `lax.scan` over the steps, differentiated by jax itself."""

import functools

import jax
import jax.numpy as jnp

from rnnjax.cells.base import Cell, accumulation_dtype
from rnnjax.types import Array, Carry, Params


def where_mask(mask: Array | None, new, old):
  """new where a row is alive, old where it is past its length; alive [...], leaves [..., *F]."""
  if mask is None:
    return new
  live = lambda leaf: mask.reshape(*mask.shape, *(1,) * (leaf.ndim - mask.ndim))
  return jax.tree.map(lambda n, o: jnp.where(live(n), n, o), new, old)


def masked_step(cell: Cell, params: Params, carry: Carry, inputs: tuple) -> tuple[Carry, Array]:
  """One step, of rows that live; of others the carry stands still and the output is 0.

  Args:
    cell, params, carry: as for `scan`.
    inputs: (x [..., D], alive [...] or None).
  """
  x, alive = inputs
  new, y = cell.step(params, carry, cell.project(params, x))
  return where_mask(alive, new, carry), where_mask(alive, y, jnp.zeros_like(y))


def scan(
  cell: Cell, params: Params, xs: Array, mask: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """Runs the cell over xs [T, ..., D]; where alive [T, ...] is False the carry stands still.

  Returns:
    carry, ys [T, ..., H].
  """
  params, narrow = with_accumulation_dtype(params)
  step = lambda carry, inputs: masked_step(cell, narrow(params), carry, inputs)
  return jax.lax.scan(step, carry, (xs, mask), reverse=reverse)


def project_steps(cell: Cell, params: Params, xs: Array):
  """Apply `cell.project` to all steps of xs [T, ..., D] at once.

  `project` sees the axes [..., D] of one step, as in the loop, so that it may mix rows or depend on
  the number of batch axes.
  """
  if cell.pointwise:  # the projection is x W + b for any axes: one product
    return cell.project(params, xs)
  return jax.vmap(cell.project, (None, 0))(params, xs)


def with_accumulation_dtype(params: Params):
  """The parameters in a type in which a loop can sum their gradients over its turns, which it does
  in the type they have outside of it; and what gives them their own type again, inside."""
  own = jax.tree.map(lambda leaf: leaf.dtype, params)
  kind = lambda dtype: accumulation_dtype(dtype) if jnp.issubdtype(dtype, jnp.floating) else dtype
  cast = functools.partial(jax.tree.map, lambda leaf, dtype: leaf.astype(dtype))
  return cast(params, jax.tree.map(kind, own)), lambda high: cast(high, own)
