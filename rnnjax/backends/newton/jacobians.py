"""Conversion of carries to vectors, and the Jacobians of all steps of a recurrence."""

import jax
import jax.numpy as jnp

from rnnjax.backends.interface import cast_to_varying
from rnnjax.backends.scan import masked_step
from rnnjax.cells.base import Cell
from rnnjax.types import Array, Carry, Params


def flatten_carry(carry: Carry) -> Array:
  """Concatenate the leaves of a carry to vectors s [..., n]."""
  return jnp.concatenate(jax.tree.leaves(carry), -1)


def unflatten_carry(s: Array, like: Carry) -> Carry:
  """Split vectors s [..., n] into a carry with the structure, sizes and dtypes of `like`."""
  leaves, structure = jax.tree.flatten(like)
  ends = [sum(leaf.shape[-1] for leaf in leaves[:i]) for i in range(1, len(leaves))]
  parts = jnp.split(s, ends, -1)
  return jax.tree.unflatten(structure, [a.astype(b.dtype) for a, b in zip(parts, leaves)])


def step_jacobians(
  cell: Cell,
  params: Params,
  xs: Array,
  mask: Array | None,
  like: Carry,
  before: Array,
  jacobian: str = "full",
) -> tuple[Array, Array]:
  """Return the next states f(sₜ₋₁, xₜ) and the Jacobians Jₜ = ∂f/∂s(sₜ₋₁) of all steps.

  f is one step of the cell on flattened carries s. All steps are computed at once.

  Args:
    cell, params, xs, mask: as for `rnnjax.backends.scan.scan`.
    like: a carry whose structure, sizes and dtypes `unflatten_carry` uses.
    before: the states sₜ₋₁ before each step, [T, ..., n].
    jacobian: "full" or "diagonal".

  Returns:
    The states after each step [T, ..., n], and the Jacobians: [T, ..., n, n] if "full", or their
    diagonals [T, ..., n] if "diagonal".
  """
  # The unit vectors have no batch axis, so their product with U is computed once for all rows.
  units = cast_to_varying(jnp.eye(before.shape[-1], dtype=before.dtype), xs)

  def linearize_row(x, mask, s):
    def step(s):
      new_carry, _ = masked_step(cell, params, unflatten_carry(s, like), (x, mask))
      return flatten_carry(new_carry)

    def column(unit):
      return jax.jvp(step, (s,), (unit,))

    after, J = jax.vmap(column, out_axes=(None, -1))(units)
    return after, J if jacobian == "full" else jnp.diagonal(J)

  linearize = linearize_row
  for _ in before.shape[:-1]:
    linearize = jax.vmap(linearize)
  return linearize(xs, mask, before)
