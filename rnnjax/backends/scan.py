"""Reference backend: `lax.scan` over the steps, with gradients by autodiff."""

import jax
import jax.numpy as jnp

from rnnjax.backends.interface import Backend, always_available, where_mask, with_accumulation_dtype
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params


def scan(
  cell: Cell, params: Params, xs: Array, mask: Array | None, carry: Carry, reverse: bool
) -> tuple[Carry, Array]:
  """Run a cell over a sequence, step by step.

  Args:
    cell: the recurrent cell.
    params: parameters of the cell.
    xs: inputs [T, ..., D].
    mask: padding mask [T, ...]. Where it is False, the carry is unchanged and the output is 0. None
      if no step is padded.
    carry: initial carry.
    reverse: run from the last step to the first.

  Returns:
    The final carry and the outputs ys [T, ..., H].
  """
  params, narrow = with_accumulation_dtype(params)

  def step(carry, inputs):
    return masked_step(cell, narrow(params), carry, inputs)

  return jax.lax.scan(step, carry, (xs, mask), reverse=reverse)


def masked_step(cell: Cell, params: Params, carry: Carry, inputs: tuple) -> tuple[Carry, Array]:
  """Run one step; in padded rows the carry is unchanged and the output is 0.

  Args:
    cell: the recurrent cell.
    params: parameters of the cell.
    carry: carry before the step.
    inputs: the tuple (x [..., D], mask [...]); the mask may be None.

  Returns:
    The carry after the step and the output y [..., H].
  """
  x, mask = inputs
  new_carry, y = cell.step(params, carry, cell.project(params, x))
  return where_mask(mask, new_carry, carry), where_mask(mask, y, jnp.zeros_like(y))


BACKEND = Backend(scan, always_available)
