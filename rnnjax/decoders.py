"""Decoders: cells bound to a memory. `unroll` trains one, `generate` samples it, `beam` decodes it.

    two = decoder(lstm(256), lstm(256), attention=additive(256))
    memory = two.remember(params, hs, lengths)            # what an encoder gave, prepared once
    carry = two.start(params, last)                       # the bridge from where the encoder ended
    carry, ys, α = two.apply(params, xs, memory, carry=carry)

Without attention all that it knows of its source is that start: the bottleneck of Cho et al. 2014
and Sutskever, Vinyals & Le 2014, which Bahdanau, Cho & Bengio 2015 remove.
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
  """What a decoder attends to.

  Attributes:
    values: [S, ..., M].
    keys: what the attention made of them, arrays [S, ...].
    lengths: [...].
  """

  values: Array
  keys: Any
  lengths: Array


class Decoder(NamedTuple):
  """A sequence from another one.

  Attributes:
    name: how it prints.
    features: F, the width of its outputs.
    init: key, D, M, L -> params: inputs of D features, a memory of M, a bridge from L.
    remember: params, values [S, ..., M], lengths [...] -> Memory.
    start: params, last [..., L], memory -> the first carry.
    apply: params, xs [T, ..., D], memory, *, carry, key=None -> carry, ys [T, ..., F], and
      α [T, S, ...], which is 0 without attention. Dropout acts where a key is given.
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
  """Cells on top of one another, and attention on top of them.

      carryₜ, hₜ = cells(carryₜ₋₁, xₜ)              with `feed` [xₜ, yₜ₋₁] instead of xₜ
      contextₜ, αₜ = attend(hₜ, memory)
      yₜ = tanh([hₜ, contextₜ] W + b)               without attention yₜ = hₜ

  That is Luong, Pham & Manning 2015, `feed` their input feeding. Without it no step waits for
  another's attention: the loop is that of the cells alone, and all steps attend at once.

  The bridge starts each part of each carry as tanh(last W + b), where last is the encoder's end.

  Args:
    *cells: the lowest first.
    attention: how the memory answers; None for a decoder that has only its start.
    feed: a step reads what the one before it has put out.
    dropout: the rate between the cells.

  Raises:
    ValueError: no cell; feed without attention; attention with coverage, which grows from step to
      step, without feed.
  """
  if not cells:
    raise ValueError("a decoder needs at least one cell")
  if input_feeding and not attention:
    raise ValueError("feed=True needs attention: without, a step knows what the one before it did")
  if attention and attention.uses_coverage and not input_feeding:
    raise ValueError(f"{attention} needs feed=True: its coverage grows from step to step")
  layers, F = stack(*map(forward, cells), dropout=dropout), cells[-1].features

  def init(key, D, M, L):
    keys = jax.random.split(key, 4)
    glorot = jax.nn.initializers.glorot_uniform()
    params = {"layers": layers.init(keys[0], D + F if input_feeding else D), "bridge": {}}
    for i, cell in enumerate(cells):
      parts = cell.initial_carry(jnp.zeros(1))
      drawn = jax.random.split(jax.random.fold_in(keys[1], i), len(parts))
      params["bridge"][f"layer_{i}"] = {
        f"carry_{j}": {"W": glorot(k, (L, part.size)), "b": jnp.zeros(part.size)}
        for j, (k, part) in enumerate(zip(drawn, parts))
      }
    if attention:
      params["attention"] = attention.init(keys[2], F, M)
      C = F + attention.context_features(M)
      params["combine"] = {"W": glorot(keys[3], (C, F)), "b": jnp.zeros(F)}
    return params

  def remember(params, values, lengths):
    keys = attention.compute_keys(params["attention"], values, lengths) if attention else ()
    return EncoderMemory(values, keys, lengths)

  def start(params, final_hidden, memory):
    carry = {}
    for cell, (name, parts) in zip(cells, params["bridge"].items()):
      like = zip(parts.values(), cell.initial_carry(final_hidden))  # each part in its own type
      made = [jnp.tanh(final_hidden @ p["W"] + p["b"]).astype(part.dtype) for p, part in like]
      carry[name] = {"forward": tuple(made)}
    if input_feeding:
      carry["fed"] = zeros_like_batch(final_hidden, F)
    if input_feeding and attention.uses_coverage:
      carry["coverage"] = _move_source_axis_last(jnp.zeros_like(memory.values[..., 0]))
    return carry

  def combine(params, h, context):
    p = params["combine"]
    return jnp.tanh(jnp.concatenate([h, context], -1) @ p["W"] + p["b"])

  def at_once(params, xs, memory, *, carry, key=None):
    carry, hs = layers.apply(params["layers"], xs, carry=carry, key=key)
    if not attention:
      return carry, hs, jnp.zeros((len(hs), *memory.values.shape[:-1]), hs.dtype)
    asked = memory.keys, memory.values, memory.lengths
    context, α = attend_all(attention, params["attention"], hs, *asked)
    return carry, combine(params, hs, context), α

  def in_turn(params, xs, memory, *, carry, key=None):
    keys = [None] * len(cells) if key is None else jax.random.split(key, len(cells))
    full = lambda cell: jnp.ones((*xs.shape[1:-1], cell.features), xs.dtype)
    masks = [drop.dropout(full(cell), dropout, k) for cell, k in zip(cells, keys)]  # locked

    def step(params, carry, x):
      new, h = {}, jnp.concatenate([x, carry["fed"]], -1)
      for i, cell in enumerate(cells):
        name = f"layer_{i}"
        p, h = params["layers"][name]["forward"], h * masks[i - 1] if i else h
        inner, h = cell.step(p, carry[name]["forward"], cell.project(p, h))
        new[name] = {"forward": inner}
      seen = jnp.moveaxis(carry["coverage"], -1, 0) if attention.uses_coverage else None
      asked = memory.keys, memory.values, memory.lengths
      context, α = attend(attention, params["attention"], h, *asked, seen)
      new["fed"], α = combine(params, h, context), _move_source_axis_last(α).astype(h.dtype)
      if attention.uses_coverage:
        new["coverage"] = carry["coverage"] + α
      return new, jnp.concatenate([new["fed"], α], -1)

    bound = Cell(
      f"bound({layers})",
      F + memory.values.shape[0],
      None,
      lambda x: jax.tree.map(jnp.zeros_like, carry),
      lambda params, x: x,
      step,
    )
    # The memory comes by closure, which the plain scan can differentiate.
    carry, both = unroll(bound, params, xs, carry=carry, backend="scan")
    return carry, both[..., :F], jnp.moveaxis(both[..., F:], -1, 1)

  name = (
    f"decoder({', '.join(map(str, [*cells, attention]))}{', feed=True' if input_feeding else ''})"
  )
  return Decoder(name, F, init, remember, start, in_turn if input_feeding else at_once)


def _move_source_axis_last(α):
  """[S, ...] as [..., S], as what a carry holds of each row."""
  return jnp.moveaxis(α, 0, -1)
