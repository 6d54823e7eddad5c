"""Gates of a recurrent cell and their saturation (Karpathy, Johnson & Li 2015)."""

import jax
import jax.numpy as jnp

from rnnjax.analysis.gradient_flow import collect_carries
from rnnjax.cells import Cell
from rnnjax.cells.base import preactivations
from rnnjax.types import Array, Params


def gate_preactivations(cell: Cell, params: Params, xs: Array) -> list[Array]:
  """Return the pre-activations of the gates of an additive cell, before σ or tanh.

  Args:
    cell: an additive cell, which applies `pointwise` to the pre-activations u + h U.
    params: the parameters of the cell.
    xs: inputs [T, ..., D].

  Returns:
    An array [T, ..., H] for each gate, in the order of `pointwise`: i, f, g, o for an LSTM; r, z
    and the two parts of n for a GRU.

  Raises:
    ValueError: the cell is not additive.
  """
  if cell.pointwise is None:
    raise ValueError(
      f"{cell} is not additive (u + h U, then pointwise), so only its step computes the gates"
    )
  h = collect_carries(cell, params, xs)[0][:-1]
  blocks = params["U"].shape[1] // params["U"].shape[0]
  return preactivations(cell.project(params, xs), h @ params["U"], blocks, cell.num_split_gates)


def gate_saturation(z: Array, threshold: float = 0.1) -> tuple[Array, Array]:
  """Return how often the gate σ(z) of each unit is nearly closed and nearly open, as fractions.

  Args:
    z: pre-activations of a gate [..., H], as returned by `gate_preactivations`.
    threshold: a gate counts as closed below `threshold`, and as open above 1 − `threshold`.

  Returns:
    The fraction of closed gates [H] and the fraction of open gates [H], over all other axes.
  """
  gate = jax.nn.sigmoid(z)
  axes = tuple(range(z.ndim - 1))
  return jnp.mean(gate < threshold, axes), jnp.mean(gate > 1 - threshold, axes)
