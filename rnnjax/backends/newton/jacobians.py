"""Every step of a cell linearised: a carry as one vector, and the Jacobians of it."""

import jax
import jax.numpy as jnp

from rnnjax.backends.batch_sharding import cast_to_varying
from rnnjax.backends.scan import masked_step
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params


def flatten_carry(carry: Carry) -> Array:
  """s [..., n]: the parts of a carry side by side."""
  return jnp.concatenate(jax.tree.leaves(carry), -1)


def unflatten_carry(s: Array, like: Carry) -> Carry:
  """The carry that s [..., n] is, with the widths and types of another."""
  leaves, structure = jax.tree.flatten(like)
  ends = [sum(leaf.shape[-1] for leaf in leaves[:i]) for i in range(1, len(leaves))]
  split = jnp.split(s, ends, -1)
  return jax.tree.unflatten(structure, [a.astype(b.dtype) for a, b in zip(split, leaves)])


def step_jacobians(
  cell: Cell,
  params: Params,
  xs: Array,
  mask: Array | None,
  like: Carry,
  before: Array,
  jacobian: str = "full",
) -> tuple[Array, Array]:
  """f(sₜ₋₁, xₜ) and Jₜ = ∂f/∂s(sₜ₋₁), of all steps at once.

  Args:
    cell, params, xs, alive: as for `scan`.
    start: a carry, whose widths and types s has.
    before: [T, ..., n], sₜ₋₁ of each step.
    form: "full" Jacobians, or their "diagonal".

  Returns:
    [T, ..., n], and [T, ..., n, n] or [T, ..., n].
  """
  # The unit vectors have no batch axis, nor has their product with U: a Jacobian needs no other.
  units = cast_to_varying(jnp.eye(before.shape[-1], dtype=before.dtype), xs)

  def row(x, mask, s):
    step = lambda s: flatten_carry(
      masked_step(cell, params, unflatten_carry(s, like), (x, mask))[0]
    )
    new, J = jax.vmap(lambda e: jax.jvp(step, (s,), (e,)), out_axes=(None, -1))(units)
    return new, J if jacobian == "full" else jnp.diagonal(J)

  for _ in before.shape[:-1]:
    row = jax.vmap(row)
  return row(xs, mask, before)
