"""The reference: `lax.scan` over the steps, differentiated by jax itself."""

import jax
import jax.numpy as jnp

from rnnjax.cells.cell import Cell
from rnnjax.types import Array, Carry, Params


def freeze(alive: Array | None, new, old):
  """new where a row is alive, old where it is past its length; alive [...], leaves [..., F]."""
  if alive is None:
    return new
  return jax.tree.map(lambda n, o: jnp.where(alive[..., None], n, o), new, old)


def scan(
  cell: Cell, params: Params, xs: Array, alive: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """Runs the cell over xs [T, ..., D]; where alive [T, ...] is False the carry stands still.

  Returns:
    carry, ys [T, ..., H].
  """

  def tick(carry, inputs):
    x, alive = inputs
    new, y = cell.step(params, carry, cell.project(params, x))
    return freeze(alive, new, carry), freeze(alive, y, jnp.zeros_like(y))

  return jax.lax.scan(tick, carry, (xs, alive), reverse=reverse)
