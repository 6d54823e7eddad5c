"""Decoders: recurrent cells that attend to the outputs of an encoder.

`Decoder.apply` runs a decoder on given inputs, as in training. `generate` samples outputs, and
`beam_search` searches for the most likely outputs.

    dec = decoder(lstm(256), lstm(256), attention=additive_attention(256))
    memory = dec.prepare_memory(params, hs, lengths)              # hs: the outputs of an encoder
    carry = dec.initial_carry(params, final_hidden, memory)       # from the encoder's final state
    carry, ys, α = dec.apply(params, xs, memory, carry=carry)

Without attention, a decoder gets information about the source only through its initial carry. Cho
et al. 2014 and Sutskever, Vinyals & Le 2014 have this bottleneck. Attention removes it (Bahdanau,
Cho & Bengio 2015).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax.attention import Attention, attend, attend_all
from rnnjax.cells.base import Cell, zeros_like_batch
from rnnjax.encoders import forward, stack
from rnnjax.types import Array, Carry, Key, Params
from rnnjax.unroll import unroll


class EncoderMemory(NamedTuple):
  """The encoder outputs that a decoder attends to.

  Attributes:
    values: the encoder outputs [S, ..., M].
    keys: the attention keys computed from `values`, arrays [S, ...]; () without attention.
    lengths: number of valid source steps of each row [...].
  """

  values: Array
  keys: Any
  lengths: Array


class Decoder(NamedTuple):
  """A recurrent decoder, as pure functions.

  Attributes:
    name: string that repr() returns.
    features: number of output features, F.
    init: (key, D, M, L) -> params, for inputs with D features, a memory with M features and an
      encoder whose final hidden state has L features.
    prepare_memory: (params, values [S, ..., M], lengths [...]) -> EncoderMemory.
    initial_carry: (params, final_hidden [..., L], memory) -> the initial carry.
    apply: (params, xs [T, ..., D], memory, *, carry, key=None) -> the final carry, ys [T, ..., F]
      and the attention weights α [T, S, ...]. Without attention, α is 0. Dropout is applied only if
      a key is given.
  """

  name: str
  features: int
  init: Callable[[Key, int, int, int], Params]
  prepare_memory: Callable[[Params, Array, Array], EncoderMemory]
  initial_carry: Callable[[Params, Array, EncoderMemory], Carry]
  apply: Callable[..., tuple[Carry, Array, Array]]

  def __repr__(self):
    return self.name


def decoder(
  *cells: Cell,
  attention: Attention | None = None,
  input_feeding: bool = False,
  dropout: float = 0.0,
) -> Decoder:
  """Return a decoder: stacked cells, then attention (Luong, Pham & Manning 2015).

      carryₜ, hₜ = cells(carryₜ₋₁, xₜ)              with input feeding [xₜ, yₜ₋₁] instead of xₜ
      contextₜ, αₜ = attend(hₜ, memory)
      yₜ = tanh([hₜ, contextₜ] W + b)               without attention yₜ = hₜ

  Without input feeding, the recurrence does not depend on the attention. Then `apply` first unrolls
  the cells and then computes the attention of all steps at once.

  The initial value of each array in a carry is tanh(final_hidden W + b), where final_hidden is the
  final hidden state of the encoder. W and b are under params["bridge"].

  Args:
    *cells: the stacked cells, from the first layer to the last.
    attention: the attention mechanism; None for a decoder without attention.
    input_feeding: whether each step also takes the previous output as input.
    dropout: dropout rate between the cells.

  Raises:
    ValueError: `cells` is empty.
    ValueError: the dropout rate is outside [0, 1).
    ValueError: input_feeding is set, but attention is None.
    ValueError: attention uses coverage, but input_feeding is not set. Coverage depends on the
      attention weights of the earlier steps.
  """
  if not cells:
    raise ValueError("a decoder needs at least one cell; got none")
  if input_feeding and not attention:
    raise ValueError(
      "input_feeding=True needs attention: without it the previous output is already in the carry"
    )
  if attention and attention.uses_coverage and not input_feeding:
    raise ValueError(
      f"{attention} needs input_feeding=True: its coverage depends on the earlier steps"
    )
  layers = stack(*map(forward, cells), dropout=dropout)
  F = cells[-1].features

  def init(key, D, M, L):
    keys = jax.random.split(key, 4)
    glorot = jax.nn.initializers.glorot_uniform()
    params = {"layers": layers.init(keys[0], D + F if input_feeding else D), "bridge": {}}
    for i, cell in enumerate(cells):
      parts = cell.initial_carry(jnp.zeros(1))
      part_keys = jax.random.split(jax.random.fold_in(keys[1], i), len(parts))
      params["bridge"][f"layer_{i}"] = {
        f"carry_{j}": {"W": glorot(k, (L, part.size)), "b": jnp.zeros(part.size)}
        for j, (k, part) in enumerate(zip(part_keys, parts))
      }
    if attention:
      params["attention"] = attention.init(keys[2], F, M)
      C = F + attention.context_features(M)
      params["combine"] = {"W": glorot(keys[3], (C, F)), "b": jnp.zeros(F)}
    return params

  def prepare_memory(params, values, lengths):
    keys = attention.compute_keys(params["attention"], values, lengths) if attention else ()
    return EncoderMemory(values, keys, lengths)

  def initial_carry(params, final_hidden, memory):
    carry = {}
    for cell, (name, bridges) in zip(cells, params["bridge"].items()):
      # Each array has the same dtype as in the cell's initial carry, e.g. float32 for an LSTM's c.
      pairs = zip(bridges.values(), cell.initial_carry(final_hidden))
      parts = [jnp.tanh(final_hidden @ p["W"] + p["b"]).astype(part.dtype) for p, part in pairs]
      carry[name] = {"forward": tuple(parts)}
    if input_feeding:
      carry["fed"] = zeros_like_batch(final_hidden, F)
    if input_feeding and attention.uses_coverage:
      carry["coverage"] = _move_source_axis_last(jnp.zeros_like(memory.values[..., 0]))
    return carry

  def combine(params, h, context):
    p = params["combine"]
    return jnp.tanh(jnp.concatenate([h, context], -1) @ p["W"] + p["b"])

  def apply_in_parallel(params, xs, memory, *, carry, key=None):
    """Unroll the cells, then compute the attention of all steps at once."""
    carry, hs = layers.apply(params["layers"], xs, carry=carry, key=key)
    if not attention:
      return carry, hs, jnp.zeros((len(hs), *memory.values.shape[:-1]), hs.dtype)
    context, α = attend_all(
      attention, params["attention"], hs, memory.keys, memory.values, memory.lengths
    )
    return carry, combine(params, hs, context), α

  def apply_step_by_step(params, xs, memory, *, carry, key=None):
    """Unroll one combined cell that contains all layers and the attention (input feeding)."""
    keys = [None] * len(cells) if key is None else jax.random.split(key, len(cells))
    batch = xs.shape[1:-1]
    # Variational dropout, as in `stack`: one mask for all steps.
    masks = [
      drop.dropout(jnp.ones((*batch, cell.features), xs.dtype), dropout, k)
      for cell, k in zip(cells, keys)
    ]

    def step(params, carry, x):
      new = {}
      h = jnp.concatenate([x, carry["fed"]], -1)
      for i, cell in enumerate(cells):
        name = f"layer_{i}"
        p = params["layers"][name]["forward"]
        if i:
          h = h * masks[i - 1]
        layer_carry, h = cell.step(p, carry[name]["forward"], cell.project(p, h))
        new[name] = {"forward": layer_carry}
      coverage = jnp.moveaxis(carry["coverage"], -1, 0) if attention.uses_coverage else None
      context, α = attend(
        attention, params["attention"], h, memory.keys, memory.values, memory.lengths, coverage
      )
      new["fed"] = combine(params, h, context)
      α = _move_source_axis_last(α).astype(h.dtype)
      if attention.uses_coverage:
        new["coverage"] = carry["coverage"] + α
      return new, jnp.concatenate([new["fed"], α], -1)

    decoder_cell = Cell(
      name=f"bound({layers})",
      features=F + memory.values.shape[0],
      init=None,
      initial_carry=lambda x: jax.tree.map(jnp.zeros_like, carry),
      project=lambda params, x: x,
      step=step,
    )
    # `step` closes over the memory. Only the scan backend computes gradients with respect to values
    # that a step closes over.
    carry, ys_and_α = unroll(decoder_cell, params, xs, carry=carry, backend="scan")
    return carry, ys_and_α[..., :F], jnp.moveaxis(ys_and_α[..., F:], -1, 1)

  options = ", input_feeding=True" if input_feeding else ""
  name = f"decoder({', '.join(map(str, [*cells, attention]))}{options})"
  apply = apply_step_by_step if input_feeding else apply_in_parallel
  return Decoder(name, F, init, prepare_memory, initial_carry, apply)


def _move_source_axis_last(α):
  """Transpose [S, ...] to [..., S], because a cell's carry and output have the batch axes first."""
  return jnp.moveaxis(α, 0, -1)
