"""How far back a recurrent net remembers, and what its gates do: for any cell.

Bengio, Simard & Frasconi 1994 and Pascanu, Mikolov & Bengio 2013 (vanishing and exploding
gradients); Karpathy, Johnson & Fei-Fei 2015 (saturation of gates).
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cells import Cell
from rnnjax.cells.base import preactivations
from rnnjax.types import Array, Carry, Params, flatten_with_names
from rnnjax.unroll import unroll


def collect_carries(cell: Cell, params: Params, xs: Array, carry: Carry | None = None) -> Carry:
  """Every carry, the first and those after each step: xs [T, ..., D] -> arrays [T + 1, ..., H]."""
  first = cell.initial_carry(xs[0]) if carry is None else carry
  widths = np.cumsum([part.shape[-1] for part in first])

  def seen(params, carry, u):
    carry, _ = cell.step(params, carry, u)
    return carry, jnp.concatenate(carry, -1)

  # A step of its own: `pointwise` or `linear`, if there is one, would put out y alone.
  whole = cell._replace(step=seen, pointwise=None, coefficients=None, features=int(widths[-1]))
  _, after = unroll(whole, params, xs, carry=first)
  after = jnp.split(after, widths[:-1], -1)
  return tuple(jnp.concatenate([c[None], part]) for c, part in zip(first, after))


def jacobian_norms(cell: Cell, params: Params, xs: Array, carry: Carry | None = None) -> Carry:
  """How much the last output state hears of every carry before it.

      ‖∂h_T/∂carryᵣ‖ = ‖ ∂h_T/∂carry_{T−1} ··· ∂carryᵣ₊₁/∂carryᵣ ‖_F / √H        r = T ... 0

  One product of Jacobians is carried back, [H, carry], whatever T is. 1 means that what was there
  is passed on as it was; less and less that it vanishes; more and more that it explodes.

  Args:
    cell: any, with a floating carry.
    params: its parameters.
    xs: [T, D], one sequence; `jax.vmap` for several.
    carry: the first carry; the cell's own where None.

  Returns:
    For each part of the carry (an LSTM has h and c) an array [T + 1], at index r.
  """
  every = collect_carries(cell, params, xs, carry)
  widths = [part.shape[-1] for part in every]
  cuts, C, H = np.cumsum(widths)[:-1], sum(widths), widths[0]
  norms = lambda m: jnp.stack([jnp.linalg.norm(part) for part in jnp.split(m, cuts, -1)])

  def back(params, jacobian_carry, u):
    (m,) = jacobian_carry  # ∂h_T/∂carryᵣ₊₁ [H, C]
    x, flat = u[C:], u[:C]

    def forth(flat):
      carry, _ = cell.step(params, tuple(jnp.split(flat, cuts, -1)), cell.project(params, x))
      return jnp.concatenate(carry, -1)

    m = jax.vmap(lambda row: jax.vjp(forth, flat)[1](row)[0])(m)
    return (m,), norms(m)

  walk = Cell(
    "influence",
    len(widths),
    init=None,
    step=back,
    project=lambda params, u: u,
    initial_carry=lambda u: (jnp.zeros((H, C), u.dtype),),
  )
  eye = jnp.eye(H, C, dtype=xs.dtype)
  seen = jnp.concatenate([*(part[:-1] for part in every), xs], -1)
  _, ns = unroll(walk, params, seen, carry=(eye,), reverse=True)
  return tuple((jnp.concatenate([ns, norms(eye)[None]]) / math.sqrt(H)).T)


def gate_preactivations(cell: Cell, params: Params, xs: Array) -> list[Array]:
  """What an additive cell's nonlinearities are given, as its `pointwise` names it.

  Args:
    cell: one of the form "u + h U, then pointwise": an LSTM has i, f, g, o, a GRU r, z and the two
      parts of n.
    params: its parameters.
    xs: [T, ..., D].

  Returns:
    Arrays [T, ..., H], before σ or tanh.

  Raises:
    ValueError: the cell is of another form.
  """
  if cell.pointwise is None:
    raise ValueError(f"{cell} does not add u and h U, so its gates are known to its step alone")
  h, blocks = (
    collect_carries(cell, params, xs)[0][:-1],
    params["U"].shape[1] // params["U"].shape[0],
  )
  return preactivations(cell.project(params, xs), h @ params["U"], blocks, cell.num_split_gates)


def gate_saturation(z: Array, threshold: float = 0.1) -> tuple[Array, Array]:
  """How often each unit's gate σ(z) is almost shut and almost open, over all steps and rows.

  Args:
    z: [..., H], as of `gates`.
    low: below it a gate counts as shut, above 1 − low as open.

  Returns:
    Two shares [H].
  """
  gate, over = jax.nn.sigmoid(z), tuple(range(z.ndim - 1))
  return jnp.mean(gate < threshold, over), jnp.mean(gate > 1 - threshold, over)


def spectral_radii(U: Array) -> np.ndarray:
  """The largest |eigenvalue| of each block of U [H, GH] -> [G].

  Of a linear net h ← h U the states grow by this factor a step; below 1 they vanish.
  """
  U = np.asarray(U, np.float64)
  return np.abs(np.linalg.eigvals(np.stack(np.split(U, U.shape[1] // U.shape[0], 1)))).max(-1)


def recurrent_spectral_radii(params: Params) -> dict[str, float]:
  """Of each block of every recurrent U of a model, as {"radius/encoder/forward/U/0": 1.0}.

  Recurrent is what stands under a direction, and reads h itself, without a projection.
  """
  recurrent = re.compile(r"(.*/)?(forward|backward)/U")
  leaves = flatten_with_names(params)
  matrices = {
    name: U
    for name, U in leaves.items()
    if recurrent.fullmatch(name) and f"{name[:-1]}P" not in leaves
  }
  return {
    f"radius/{name}/{block}": float(radius)
    for name, U in matrices.items()
    for block, radius in enumerate(spectral_radii(U))
  }
