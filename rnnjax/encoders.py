"""Encoders: a sequence to a sequence, composed as plain functions.

    stack(bidirectional(lstm(256), lstm(256)), bidirectional(lstm(256), lstm(256)), dropout=0.3)

Parameters are nested dicts with names a person reads, such as layer_0/forward/W.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax.cells.base import Cell
from rnnjax.masking import padding_mask
from rnnjax.types import Array, Carry, Key, Params
from rnnjax.unroll import first_input, unroll, unroll_bidirectional

MERGE_MODES = {
  "concat": lambda a, b: jnp.concatenate([a, b], -1),
  "sum": operator.add,
  "mean": lambda a, b: (a + b) / 2,
  "product": operator.mul,
}


class Encoder(NamedTuple):
  """A sequence to a sequence.

  Attributes:
    name: how the encoder prints.
    features: the width of its outputs.
    init: key, D -> params.
    apply: params, xs [T, ..., D], lengths=None, *, carry=None, key=None -> carry,
      ys [T, ..., features]. Dropout acts where a key is given. The carry is a dict by direction
      and layer.
    last: carry -> [..., features], h of the highest layer at the end each direction comes to,
      without what a residual adds.
  """

  name: str
  features: int
  init: Callable[[Key, int], Params]
  apply: Callable[..., tuple[Carry, Array]]
  final_hidden: Callable[[Carry], Array]

  def __repr__(self):
    return self.name


def _unidirectional(
  name: str, cell: Cell, reverse: bool, learned_initial_carry: bool, options
) -> Encoder:
  """One cell in one direction; its parameters stand under the direction's name."""

  def init(key, D):
    params = {name: cell.init(key, D)}
    if learned_initial_carry:
      x = jax.eval_shape(cell.initial_carry, jnp.zeros(D))
      params[f"{name}_start"] = {f"carry_{i}": jnp.zeros(c.shape) for i, c in enumerate(x)}
    return params

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    del key
    carry = _initial_carry(name, cell, params, xs, carry)
    carry, ys = unroll(cell, params[name], xs, lengths, carry=carry, reverse=reverse, **options)
    return {name: carry}, ys

  last = lambda carry: carry[name][0]
  return Encoder(f"{name}({cell})", cell.features, init, apply, last)


def _initial_carry(name, cell, params, xs, carry):
  """The first carry of a direction: given, learned, or None for the cell's own."""
  if carry is not None:
    return carry[name]
  if f"{name}_start" in params:
    learned = params[f"{name}_start"]
    return tuple(
      c + learned[f"carry_{i}"] for i, c in enumerate(cell.initial_carry(first_input(xs)))
    )
  return None


def forward(cell: Cell, *, learned_initial_carry: bool = False, **options) -> Encoder:
  """The cell from the first step to the last.

  Args:
    cell: what is unrolled.
    learned_start: the first carry is a parameter instead of zeros.
    **options: remat and backend, as for `unroll`.
  """
  return _unidirectional("forward", cell, False, learned_initial_carry, options)


def backward(cell: Cell, *, learned_initial_carry: bool = False, **options) -> Encoder:
  """The cell from each row's last step to the first; arguments as for `forward`."""
  return _unidirectional("backward", cell, True, learned_initial_carry, options)


def bidirectional(
  forward_cell: Cell,
  backward_cell: Cell,
  merge: str = "concat",
  *,
  learned_initial_carry: bool = False,
  **options,
) -> Encoder:
  """Two cells, one in each direction, their outputs merged: Schuster & Paliwal 1997.

  Args:
    ahead, back: the cells.
    merge: "concat", "sum", "mean" or "product".
    learned_start, **options: as for `forward`.

  Raises:
    ValueError: merge is unknown, or needs cells of one width and they have two.
  """
  if merge not in MERGE_MODES:
    raise ValueError(f"merge must be one of {sorted(MERGE_MODES)}; got {merge!r}")
  if merge != "concat" and forward_cell.features != backward_cell.features:
    raise ValueError(
      f"merge={merge!r} needs two cells of one width; got {forward_cell} and {backward_cell}"
    )
  one = forward(forward_cell, learned_initial_carry=learned_initial_carry, **options)
  two = backward(backward_cell, learned_initial_carry=learned_initial_carry, **options)

  def init(key, D):
    keys = jax.random.split(key)
    return one.init(keys[0], D) | two.init(keys[1], D)

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    del key
    if forward_cell is backward_cell:  # in one launch, where the backend can
      names = "forward", "backward"
      starts = [_initial_carry(name, forward_cell, params, xs, carry) for name in names]
      nets = [params[name] for name in names]
      ends, ys = zip(
        *unroll_bidirectional(forward_cell, nets, xs, lengths, carries=starts, **options)
      )
      return dict(zip(names, ends)), MERGE_MODES[merge](*ys)
    ends = [e.apply(params, xs, lengths, carry=carry) for e in (one, two)]
    return ends[0][0] | ends[1][0], MERGE_MODES[merge](ends[0][1], ends[1][1])

  last = lambda carry: MERGE_MODES[merge](one.final_hidden(carry), two.final_hidden(carry))
  features = forward_cell.features + (backward_cell.features if merge == "concat" else 0)
  return Encoder(
    f"bidirectional({forward_cell}, {backward_cell}, {merge!r})", features, init, apply, last
  )


def stack(*layers: Encoder, residual: bool = False, dropout: float = 0.0, variational: bool = True):
  """Encoders on top of one another.

      y⁰ = x,  yˡ = layerₗ(drop(yˡ⁻¹))  (+ yˡ⁻¹ with residual, where the widths agree)

  Args:
    *layers: the encoders, the first one lowest.
    residual: each layer adds to what it reads.
    dropout: the rate between layers, not before the first nor after the last.
    locked: one mask for all steps (Gal & Ghahramani 2016); False draws one for each.

  Raises:
    ValueError: no layer, or a rate outside [0, 1).
  """
  if not layers:
    raise ValueError("stack needs at least one layer")
  if not 0 <= dropout < 1:
    raise ValueError(f"dropout must lie in [0, 1); got {dropout}")
  names = [f"layer_{i}" for i in range(len(layers))]
  between = drop.variational_dropout if variational else drop.dropout

  def init(key, D):
    widths = [D, *(layer.features for layer in layers)]
    keys = jax.random.split(key, len(layers))
    return {n: e.init(k, w) for n, e, k, w in zip(names, layers, keys, widths)}

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    ends = {}
    keys = [None] * 2 * len(layers) if key is None else jax.random.split(key, 2 * len(layers))
    if residual and lengths is not None:  # what is past a row's end is no output
      xs = jnp.where(padding_mask(xs, lengths)[..., None], xs, 0)
    for i, (name, layer) in enumerate(zip(names, layers)):
      read = between(xs, dropout, keys[2 * i]) if i else xs
      start, inner = carry and carry[name], keys[2 * i + 1]
      ends[name], ys = layer.apply(params[name], read, lengths, carry=start, key=inner)
      xs = ys + xs if residual and ys.shape == xs.shape else ys
    return ends, xs

  last = lambda carry: layers[-1].final_hidden(carry[names[-1]])
  name = f"stack({', '.join(map(repr, layers))})"
  return Encoder(name, layers[-1].features, init, apply, last)
