"""Encoders whose recurrence itself is disturbed in training: weight drop and zoneout.

They compose with all others: `weight_drop(stack(zoneout(lstm(256)), forward(lstm(256))), 0.5)`.
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax import dropout
from rnnjax.cells.base import Cell, accumulation_dtype, zeros_like_batch
from rnnjax.encoders import Encoder, forward
from rnnjax.types import Key


def weight_drop(encoder: Encoder, rate: float) -> Encoder:
  """The encoder with elements of its recurrent matrices U dropped, the same at every step.

  Merity, McCann & Socher 2017 (AWD-LSTM). Acts where a key is given.

  Raises:
    ValueError: a rate outside [0, 1); an encoder without U, when its parameters are made.
  """
  if not 0 <= rate < 1:
    raise ValueError(f"a rate of weight drop must lie in [0, 1); got {rate}")

  def init(key, D):
    params = encoder.init(key, D)
    if not any(path[-1].key == "U" for path, _ in jax.tree_util.tree_leaves_with_path(params)):
      raise ValueError(f"weight drop is of recurrent matrices U, and {encoder} has none")
    return params

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    keys = [None] * 2 if key is None else jax.random.split(key)
    params = dropout.dropconnect(params, rate, keys[0])
    return encoder.apply(params, xs, lengths, carry=carry, key=keys[1])

  return encoder._replace(name=f"weight_drop({encoder}, {rate})", init=init, apply=apply)


def zoneout(cell: Cell, *rates: float, remat: int | None = None, backend: str = "auto") -> Encoder:
  """The cell, forward in time, with parts of its carry kept as they were: Krueger et al. 2017.

      carryₜ = mₜ ⊙ carryₜ₋₁ + (1 − mₜ) ⊙ stepₜ,   yₜ = hₜ
      mₜ ~ Bernoulli(rate) where a key is given, else its expectation, the rate

  Args:
    cell: whose y is its h.
    *rates: one for each array of the carry, as (h, c) of an LSTM; one alone is that of h.
    remat, backend: as for `unroll`.

  Raises:
    ValueError: more rates than arrays, a rate outside [0, 1]; a linear cell, no step of which
      reads h.
  """
  if cell.coefficients:
    raise ValueError(f"zoneout is of a state that goes on; the h of {cell} is read by no step")
  if len(rates) > len(_carry_sizes(cell)) or not all(0 <= rate <= 1 for rate in rates):
    raise ValueError(
      f"zoneout needs a rate in [0, 1] for each of the {len(_carry_sizes(cell))} arrays that {cell} "
      f"carries, or for the first of them; got {rates}"
    )
  zoned = _zoneout_cell(cell)
  encoder = forward(zoned, remat=remat, backend=backend)

  def init(key, D):
    return {"forward": cell.init(key, D)}

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    masks = _zoneout_masks(_carry_sizes(cell), rates, xs, key)
    return encoder.apply(params, jnp.concatenate([xs, masks], -1), lengths, carry=carry)

  name = f"zoneout({', '.join(map(str, [cell, *rates]))})"
  return encoder._replace(name=name, init=init, apply=apply)


def _carry_sizes(cell: Cell) -> list[int]:
  """The features of each array of the carry."""
  carry = jax.eval_shape(cell.initial_carry, jnp.zeros(1))
  return [c.shape[-1] for c in carry]


def _zoneout_masks(sizes, rates, xs, key: Key | None):
  """m [T, ..., ΣH], what is kept of each array of the carry."""
  full = accumulation_dtype(xs.dtype)  # in bfloat16 a draw would have 7 bits
  rate = jnp.concatenate(
    [jnp.full(n, rate, full) for n, rate in zip(sizes, (*rates, *[0] * len(sizes)))]
  )
  rate = zeros_like_batch(xs, rate.size, full) + rate.reshape(
    *(1,) * (xs.ndim - 1), -1
  )  # placed as xs is
  return (rate if key is None else jax.random.bernoulli(key, rate)).astype(xs.dtype)


@functools.cache
def _zoneout_cell(cell: Cell) -> Cell:
  """The cell that reads [x, m]: the randomness enters as data, so the step stays a function."""
  widths = _carry_sizes(cell)
  split = lambda x: (x[..., : -sum(widths)], x[..., -sum(widths) :])

  def project(params, x):
    x, m = split(x)
    return jnp.concatenate([cell.project(params, x), m], -1)

  def step(params, carry, u):
    u, m = split(u)
    new, _ = cell.step(params, carry, u)
    ends = [sum(widths[: i + 1]) for i in range(len(widths) - 1)]
    parts = zip(jnp.split(m, ends, -1), carry, new)
    kept = tuple((m * old + (1 - m) * c).astype(c.dtype) for m, old, c in parts)
    return kept, kept[0]

  return Cell(f"zoned({cell})", cell.features, cell.init, cell.initial_carry, project, step)
