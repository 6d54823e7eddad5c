"""Gradient flow through time, and the spectral radii that limit it, for any recurrent cell.

Vanishing and exploding gradients: Bengio, Simard & Frasconi 1994; Pascanu, Mikolov & Bengio 2013.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cells import Cell
from rnnjax.types import Array, Carry, Params, flatten_with_names
from rnnjax.unroll import unroll


def collect_carries(cell: Cell, params: Params, xs: Array, carry: Carry | None = None) -> Carry:
  """Return the initial carry and the carry after each step.

  Args:
    cell: the recurrent cell.
    params: the parameters of the cell.
    xs: inputs [T, ..., D].
    carry: the initial carry; None for the cell's default.

  Returns:
    The carries, stacked along an additional first axis: each array is [T + 1, ..., width].
  """
  first = cell.initial_carry(xs[0]) if carry is None else carry
  ends = np.cumsum([part.shape[-1] for part in first])

  def step(params, carry, u):
    carry, _ = cell.step(params, carry, u)
    return carry, jnp.concatenate(carry, -1)

  # With `pointwise` or `coefficients`, a backend would compute y without calling `step`.
  carry_cell = cell._replace(step=step, pointwise=None, coefficients=None, features=int(ends[-1]))
  _, carries = unroll(carry_cell, params, xs, carry=first)
  carries = jnp.split(carries, ends[:-1], -1)
  return tuple(jnp.concatenate([start[None], part]) for start, part in zip(first, carries))


def jacobian_norms(cell: Cell, params: Params, xs: Array, carry: Carry | None = None) -> Carry:
  """Return the norm of the Jacobian of the final h with respect to each earlier carry.

      ‖∂h_T/∂carryᵣ‖ = ‖ ∂h_T/∂carry_{T−1} ··· ∂carryᵣ₊₁/∂carryᵣ ‖_F / √H        r = T ... 0

  A norm of 1 means that the state is preserved. If the norms decrease towards r = 0, gradients
  vanish; if they increase, gradients explode. Only one product of Jacobians is stored at a time,
  an array [H, carry size]. Its size does not depend on T.

  Args:
    cell: any cell with a floating-point carry.
    params: the parameters of the cell.
    xs: inputs [T, D] of one sequence; use `jax.vmap` for several sequences.
    carry: the initial carry; None for the cell's default.

  Returns:
    An array [T + 1], indexed by r, for each part of the carry (an LSTM has h and c).
  """
  carries = collect_carries(cell, params, xs, carry)
  widths = [part.shape[-1] for part in carries]
  cuts = np.cumsum(widths)[:-1]
  C = sum(widths)
  H = widths[0]

  def norms(m):
    return jnp.stack([jnp.linalg.norm(part) for part in jnp.split(m, cuts, -1)])

  def backward_step(params, backward_carry, u):
    (m,) = backward_carry  # ∂h_T/∂carryᵣ₊₁ [H, C]
    x, flat_carry = u[C:], u[:C]

    def forward_step(flat_carry):
      carry = tuple(jnp.split(flat_carry, cuts, -1))
      carry, _ = cell.step(params, carry, cell.project(params, x))
      return jnp.concatenate(carry, -1)

    m = jax.vmap(lambda row: jax.vjp(forward_step, flat_carry)[1](row)[0])(m)
    return (m,), norms(m)

  backward_cell = Cell(
    "jacobian_product",
    len(widths),
    init=None,
    step=backward_step,
    project=lambda params, u: u,
    initial_carry=lambda u: (jnp.zeros((H, C), u.dtype),),
  )
  eye = jnp.eye(H, C, dtype=xs.dtype)
  inputs = jnp.concatenate([*(part[:-1] for part in carries), xs], -1)
  _, ns = unroll(backward_cell, params, inputs, carry=(eye,), reverse=True)
  return tuple((jnp.concatenate([ns, norms(eye)[None]]) / math.sqrt(H)).T)


def spectral_radii(U: Array) -> np.ndarray:
  """Return the largest |eigenvalue| of each [H, H] block of U [H, GH], as an array [G].

  In the linear recurrence h ← h U, the largest |eigenvalue| is the growth factor of h per step. If
  it is below 1, h vanishes.
  """
  U = np.asarray(U, np.float64)
  blocks = np.stack(np.split(U, U.shape[1] // U.shape[0], 1))
  return np.abs(np.linalg.eigvals(blocks)).max(-1)


def recurrent_spectral_radii(params: Params) -> dict[str, float]:
  """Return the spectral radius of each gate's [H, H] block of each recurrent matrix U of a model.

  A matrix is recurrent if it is named "forward/U" or "backward/U" and its cell multiplies h by it
  directly. Cells with a projection P are skipped, because their U is not square.

  Returns:
    {"radius/NAME/INDEX": spectral radius}, e.g. "radius/encoder/forward/U/0" for the first block.
  """
  leaves = flatten_with_names(params)
  radii = {}
  for name, leaf in leaves.items():
    if re.fullmatch(r"(.*/)?(forward|backward)/U", name) and f"{name[:-1]}P" not in leaves:
      for block, radius in enumerate(spectral_radii(leaf)):
        radii[f"radius/{name}/{block}"] = float(radius)
  return radii
