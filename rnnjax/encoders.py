"""Encoders: layers that map a sequence to a sequence, built from recurrent cells.

    stack(bidirectional(lstm(256), lstm(256)), bidirectional(lstm(256), lstm(256)), dropout=0.3)

Parameters are nested dicts with readable names such as layer_0/forward/W.
"""

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.cells.base import Cell
from rnnjax.dropout import dropout as independent_dropout
from rnnjax.dropout import variational_dropout
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
  """An encoder, as pure functions.

  Attributes:
    name: string that repr() returns: the constructor calls, e.g. forward(lstm(256)).
    features: number of output features.
    init: (key, D) -> params.
    apply: (params, xs [T, ..., D], lengths=None, *, carry=None, key=None) -> (carry,
      ys [T, ..., features]). Dropout is active only if a key is given. The carry of one
      layer is {"forward": carry}, {"backward": carry}, or a dict with both keys. The carry of a
      stack is {"layer_0": carry of layer 0, "layer_1": carry of layer 1, ...}.
    final_hidden: carry -> [..., features], the final h of the last layer. If the last layer is
      bidirectional, the final h of both directions are merged with the same `merge` as the outputs.
      A residual connection is not added to the final h.
  """

  name: str
  features: int
  init: Callable[[Key, int], Params]
  apply: Callable[..., tuple[Carry, Array]]
  final_hidden: Callable[[Carry], Array]

  def __repr__(self):
    return self.name


def _unidirectional(
  direction: str, cell: Cell, learned_initial_carry: bool, unroll_options: dict
) -> Encoder:
  """Return an encoder that runs one cell in one direction; its params are {direction: ...}."""
  reverse = direction == "backward"

  def init(key, D):
    params = {direction: cell.init(key, D)}
    if learned_initial_carry:
      carry = jax.eval_shape(cell.initial_carry, jnp.zeros(D))
      params[f"{direction}_start"] = {f"carry_{i}": jnp.zeros(c.shape) for i, c in enumerate(carry)}
    return params

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    del key
    carry = _initial_carry(direction, cell, params, xs, carry)
    carry, ys = unroll(
      cell, params[direction], xs, lengths, carry=carry, reverse=reverse, **unroll_options
    )
    return {direction: carry}, ys

  def final_hidden(carry):
    return carry[direction][0]

  return Encoder(f"{direction}({cell})", cell.features, init, apply, final_hidden)


def _initial_carry(direction, cell, params, xs, carry):
  """Return the initial carry of the cell in one direction.

  It is carry[direction] if a carry is passed. Otherwise it is the learned initial carry, or None if
  the encoder has no learned initial carry.
  """
  if carry is not None:
    return carry[direction]
  if f"{direction}_start" not in params:
    return None
  learned = params[f"{direction}_start"]
  zeros = cell.initial_carry(first_input(xs))
  return tuple(c + learned[f"carry_{i}"] for i, c in enumerate(zeros))


def forward(cell: Cell, *, learned_initial_carry: bool = False, **unroll_options) -> Encoder:
  """Return an encoder that runs a cell from the first step to the last.

  Args:
    cell: the recurrent cell.
    learned_initial_carry: whether the initial carry is a parameter instead of zeros.
    **unroll_options: `remat` and `backend`, as for `unroll`.
  """
  return _unidirectional("forward", cell, learned_initial_carry, unroll_options)


def backward(cell: Cell, *, learned_initial_carry: bool = False, **unroll_options) -> Encoder:
  """Return an encoder that runs a cell from each row's last step to the first.

  Arguments are as for `forward`.
  """
  return _unidirectional("backward", cell, learned_initial_carry, unroll_options)


def bidirectional(
  forward_cell: Cell,
  backward_cell: Cell,
  merge: str = "concat",
  *,
  learned_initial_carry: bool = False,
  **unroll_options,
) -> Encoder:
  """Return an encoder that merges the outputs of two directions (Schuster & Paliwal 1997).

  Args:
    forward_cell, backward_cell: the recurrent cells of the two directions.
    merge: "concat", "sum", "mean" or "product".
    learned_initial_carry, **unroll_options: as for `forward`.

  Raises:
    ValueError: merge is invalid, or merge is "sum", "mean" or "product" and the cells differ in
      their number of features.
  """
  if merge not in MERGE_MODES:
    raise ValueError(f"merge must be one of {sorted(MERGE_MODES)}; got {merge!r}")
  if merge != "concat" and forward_cell.features != backward_cell.features:
    raise ValueError(
      f"merge={merge!r} needs two cells of equal size; got {forward_cell} and {backward_cell}"
    )
  merge_outputs = MERGE_MODES[merge]
  forward_encoder, backward_encoder = encoders = [
    _unidirectional(direction, cell, learned_initial_carry, unroll_options)
    for direction, cell in (("forward", forward_cell), ("backward", backward_cell))
  ]

  def init(key, D):
    forward_key, backward_key = jax.random.split(key)
    return forward_encoder.init(forward_key, D) | backward_encoder.init(backward_key, D)

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    del key
    if forward_cell is not backward_cell:
      (carry_f, ys_f), (carry_b, ys_b) = (
        encoder.apply(params, xs, lengths, carry=carry) for encoder in encoders
      )
      return carry_f | carry_b, merge_outputs(ys_f, ys_b)
    # Some backends run both directions of one cell in one kernel launch.
    directions = "forward", "backward"
    carries = [_initial_carry(name, forward_cell, params, xs, carry) for name in directions]
    param_sets = [params[name] for name in directions]
    (carry_f, ys_f), (carry_b, ys_b) = unroll_bidirectional(
      forward_cell, param_sets, xs, lengths, carries=carries, **unroll_options
    )
    return {"forward": carry_f, "backward": carry_b}, merge_outputs(ys_f, ys_b)

  def final_hidden(carry):
    return merge_outputs(*[encoder.final_hidden(carry) for encoder in encoders])

  name = f"bidirectional({forward_cell}, {backward_cell}, {merge!r})"
  features = forward_cell.features + (backward_cell.features if merge == "concat" else 0)
  return Encoder(name, features, init, apply, final_hidden)


def stack(*layers: Encoder, residual: bool = False, dropout: float = 0.0, variational: bool = True):
  """Stack encoders: each encoder reads the outputs of the previous encoder.

      y⁰ = x,  yˡ = layerₗ(dropout(yˡ⁻¹))  (+ yˡ⁻¹ if residual and the shapes are equal)

  Args:
    *layers: the encoders, from the first layer to the last.
    residual: whether the input of a layer is added to its output. A layer whose input and output
      differ in shape has no residual connection.
    dropout: dropout rate between layers. There is no dropout before the first layer or after the
      last layer.
    variational: whether one dropout mask is used for all steps (Gal & Ghahramani 2016) instead of
      one mask per step.

  Raises:
    ValueError: `layers` is empty, or the dropout rate is outside [0, 1).
  """
  if not layers:
    raise ValueError("stack needs at least one layer")
  if not 0 <= dropout < 1:
    raise ValueError(f"dropout must lie in [0, 1); got {dropout}")
  names = [f"layer_{i}" for i in range(len(layers))]
  apply_dropout = variational_dropout if variational else independent_dropout

  def init(key, D):
    sizes = [D, *(layer.features for layer in layers)]
    keys = jax.random.split(key, len(layers))
    return {
      name: layer.init(layer_key, size)
      for name, layer, layer_key, size in zip(names, layers, keys, sizes)
    }

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    carries = {}
    keys = [None] * 2 * len(layers) if key is None else jax.random.split(key, 2 * len(layers))
    # A residual connection would copy the padding of xs to the outputs.
    if residual and lengths is not None:
      xs = jnp.where(padding_mask(xs, lengths)[..., None], xs, 0)
    for i, (name, layer) in enumerate(zip(names, layers)):
      dropout_key, layer_key = keys[2 * i], keys[2 * i + 1]
      inputs = apply_dropout(xs, dropout, dropout_key) if i else xs
      carries[name], ys = layer.apply(
        params[name], inputs, lengths, carry=carry and carry[name], key=layer_key
      )
      xs = ys + xs if residual and ys.shape == xs.shape else ys
    return carries, xs

  def final_hidden(carry):
    return layers[-1].final_hidden(carry[names[-1]])

  name = f"stack({', '.join(map(repr, layers))})"
  return Encoder(name, layers[-1].features, init, apply, final_hidden)
