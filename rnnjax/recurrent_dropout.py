"""Encoders with dropout inside the recurrence: weight drop and zoneout.

They can be nested and stacked: `weight_drop(stack(zoneout(lstm(8), 0.1), forward(lstm(8))), 0.5)`.
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax import dropout
from rnnjax.cells.base import Cell, accumulation_dtype, zeros_like_batch
from rnnjax.encoders import Encoder, forward
from rnnjax.types import Key


def weight_drop(encoder: Encoder, rate: float) -> Encoder:
  """Return `encoder` with dropout of the elements of its recurrent matrices U.

  All steps use the same dropout mask (AWD-LSTM; Merity, McCann & Socher 2017). Dropout is active
  only if a key is passed to `apply`.

  Raises:
    ValueError: the rate is outside [0, 1).
    ValueError (from init): the encoder has no matrix U.
  """
  if not 0 <= rate < 1:
    raise ValueError(f"the weight drop rate must lie in [0, 1); got {rate}")

  def init(key, D):
    params = encoder.init(key, D)
    if not any(path[-1].key == "U" for path, _ in jax.tree_util.tree_leaves_with_path(params)):
      raise ValueError(f"weight drop needs recurrent matrices U, and {encoder} has none")
    return params

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    weight_key, encoder_key = [None] * 2 if key is None else jax.random.split(key)
    params = dropout.dropconnect(params, rate, weight_key)
    return encoder.apply(params, xs, lengths, carry=carry, key=encoder_key)

  return encoder._replace(name=f"weight_drop({encoder}, {rate})", init=init, apply=apply)


def zoneout(cell: Cell, *rates: float, remat: int | None = None, backend: str = "auto") -> Encoder:
  """Return a forward encoder with zoneout on the cell's carry (Krueger et al. 2017).

      carryₜ = mₜ ⊙ carryₜ₋₁ + (1 − mₜ) ⊙ new_carryₜ,   yₜ = hₜ
      mₜ ~ Bernoulli(rate) if a key is given, else mₜ = rate, its expectation

  Args:
    cell: a cell whose output y equals its hidden state h.
    *rates: zoneout rate of each array of the carry, e.g. of h and c of an LSTM. The rate is the
      probability that an element keeps its previous value. Omitted rates are 0.
    remat, backend: as for `unroll`.

  Raises:
    ValueError: there are more rates than arrays in the carry, or a rate is outside [0, 1].
    ValueError: the cell is a linear recurrence. Its steps do not depend on the previous h.
  """
  if cell.coefficients:
    raise ValueError(f"zoneout needs a cell whose step reads h; the step of {cell} does not")
  sizes = _carry_sizes(cell)
  if len(rates) > len(sizes) or not all(0 <= rate <= 1 for rate in rates):
    raise ValueError(
      f"zoneout needs rates in [0, 1], at most one for each of the {len(sizes)} arrays in the "
      f"carry of {cell}; got {rates}"
    )
  encoder = forward(_zoneout_cell(cell), remat=remat, backend=backend)

  def init(key, D):
    return {"forward": cell.init(key, D)}

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    masks = _zoneout_masks(sizes, rates, xs, key)
    return encoder.apply(params, jnp.concatenate([xs, masks], -1), lengths, carry=carry)

  name = f"zoneout({', '.join(map(str, [cell, *rates]))})"
  return encoder._replace(name=name, init=init, apply=apply)


def _carry_sizes(cell: Cell) -> list[int]:
  """Return the number of features of each array in the cell's carry."""
  carry = jax.eval_shape(cell.initial_carry, jnp.zeros(1))
  return [c.shape[-1] for c in carry]


def _zoneout_masks(sizes, rates, xs, key: Key | None):
  """Return the zoneout masks m [T, ..., N] with N = sum(sizes) and values in [0, 1].

  At 1, an element of the carry keeps its previous value. At 0, it gets its new value.
  """
  dtype = accumulation_dtype(xs.dtype)  # bfloat16 would draw from only 128 values
  padded_rates = (*rates, *[0] * (len(sizes) - len(rates)))
  rate = jnp.concatenate([jnp.full(n, rate, dtype) for n, rate in zip(sizes, padded_rates)])
  rate = rate.reshape(*(1,) * (xs.ndim - 1), -1)
  rate = zeros_like_batch(xs, rate.size, dtype) + rate  # adding gives the rates the sharding of xs
  return (rate if key is None else jax.random.bernoulli(key, rate)).astype(xs.dtype)


@functools.cache
def _zoneout_cell(cell: Cell) -> Cell:
  """Return a cell with zoneout. Its inputs [x, m] contain the masks m, so it needs no key."""
  sizes = _carry_sizes(cell)
  boundaries = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]

  def split_masks(a):
    return a[..., : -sum(sizes)], a[..., -sum(sizes) :]

  def project(params, x):
    x, m = split_masks(x)
    return jnp.concatenate([cell.project(params, x), m], -1)

  def step(params, carry, u):
    u, m = split_masks(u)
    new_carry, _ = cell.step(params, carry, u)
    masks = jnp.split(m, boundaries, -1)
    carry = tuple(
      (mask * old + (1 - mask) * new).astype(new.dtype)
      for mask, old, new in zip(masks, carry, new_carry)
    )
    return carry, carry[0]

  return Cell(f"zoneout({cell})", cell.features, cell.init, cell.initial_carry, project, step)
