"""Attention: which steps of a sequence matter, as weights that sum to one.

`words` makes one vector of a text; all else answers queries from a memory, which has S steps of M
features, such as an encoder's outputs. What need not wait for a query is computed once:

    keys = attention.keys(params, memory, lengths)
    context, α = attend(attention, params, query, keys, memory, lengths)

A query has Q features, and what compares the two has A.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.cells.base import accumulation_dtype
from rnnjax.masking import padding_mask
from rnnjax.types import Array, Key, Params


def init_attention_pooling(key: Key, features: int) -> Params:
  """W [H, H] Glorot uniform, b [H] zero, u_w [H] ~ N(0, 1/H)."""
  keys = jax.random.split(key)
  return {
    "W": jax.nn.initializers.glorot_uniform()(keys[0], (features, features)),
    "b": jnp.zeros(features),
    "u_w": jax.random.normal(keys[1], (features,)) * features**-0.5,
  }


def attention_pooling(
  params: Params, hs: Array, lengths: Array | None = None
) -> tuple[Array, Array]:
  """Attention over the words of a text: Yang et al., Hierarchical Attention Networks, 2016.

      uₜ = tanh(hₜ W + b)
      αₜ = exp(uₜ · u_w) / Σₜ exp(uₜ · u_w)
      s = Σₜ αₜ hₜ

  Args:
    params: {"W": [H, H], "b": [H], "u_w": [H]}.
    hs: [T, ..., H].
    lengths: [...]; None where all rows have T steps.

  Returns:
    s [..., H] and α [T, ...]; both 0 for a row of length 0.
  """
  u = jnp.tanh(hs @ params["W"] + params["b"])
  α = jax.nn.softmax(u @ params["u_w"], axis=0, where=padding_mask(hs, lengths))
  return jnp.einsum("t...,t...h->...h", α, hs), α


class Attention(NamedTuple):
  """How a memory answers queries, as pure functions.

  Attributes:
    name: how it prints, e.g. additive(128).
    init: key, Q, M -> params, a flat dict of arrays.
    keys: params, memory [S, ..., M], lengths=None -> keys, arrays [S, ...]: all that need not wait
      for the query. Padding is read as 0.
    apply: params, query [..., Q], keys, memory, mask [S, ...], coverage -> context [..., features],
      α [S, ...], given a memory that is 0 where the mask is False.
    features: M -> the width of the context.
    coverage: whether the sum of the weights so far is read.
  """

  name: str
  init: Callable[[Key, int, int], Params]
  compute_keys: Callable[..., Any]
  apply: Callable[..., tuple[Array, Array]]
  context_features: Callable[[int], int] = lambda M: M
  uses_coverage: bool = False

  def __repr__(self):
    return self.name


def attend(
  attention: Attention,
  params: Params,
  query: Array,
  keys: Any,
  memory: Array,
  lengths: Array | None = None,
  coverage: Array | None = None,
) -> tuple[Array, Array]:
  """What a memory answers to one query a row.

      αₛ = exp(eₛ) / Σₛ exp(eₛ)                     s < length, else 0
      context = Σₛ αₛ memoryₛ

  The scores e compare query and keys; their softmax is float32 at least. What stands past a row's
  length, NaN even, changes neither outputs nor gradients.

  Args:
    attention: how a memory answers queries.
    params: its parameters.
    query: [..., Q].
    keys: attention.keys(params, memory, lengths).
    memory: [S, ..., M], floating; any number of batch axes.
    lengths: [...], integer steps of each row of the memory; None where all have S.
    coverage: [S, ...], the sum of the weights so far, 0 at first, where the attention reads it.

  Returns:
    context [..., features], of the memory's type, and α [S, ...]; both 0 for a row of length 0.

  Raises:
    ValueError: query, lengths or coverage do not fit the memory or the attention.
  """
  params, memory, mask = _mask_memory(params, memory, lengths)
  batch, got = memory.shape[1:-1], None if coverage is None else coverage.shape
  if query.shape[:-1] != batch:
    raise ValueError(
      f"a query must have the batch shape {batch} of memory {memory.shape}, which is time-major "
      f"[S, *batch, M]; got {query.shape}. Is memory batch-major?"
    )
  if got != (mask.shape if attention.uses_coverage else None):
    raise ValueError(
      f"{attention} reads {f'coverage {mask.shape}' if attention.uses_coverage else 'no coverage'}; "
      f"got {got}. Coverage grows: attend to one query after another"
    )
  return attention.apply(params, query, keys, memory, mask, coverage)


def attend_all(
  attention: Attention,
  params: Params,
  queries: Array,
  keys: Any,
  memory: Array,
  lengths: Array | None = None,
) -> tuple[Array, Array]:
  """`attend` for queries [T, ..., Q] at once, none of which waits for another's answer.

  Dot products become products of matrices; additive(A) makes [T, S, ..., A].

  Returns:
    context [T, ..., features] and α [T, S, ...].
  """
  one = lambda query: attend(attention, params, query, keys, memory, lengths)
  return jax.vmap(one)(queries)


def _mask_memory(params, memory, lengths):
  """params in the memory's type, the memory with 0 for padding, and which of its steps live."""
  memory = jnp.asarray(memory)
  mask = padding_mask(memory, lengths, "memory", "S")
  params = jax.tree.map(lambda p: jnp.asarray(p, memory.dtype), params)
  return params, jnp.where(mask[..., None], memory, 0), mask


def _with_masked_memory(compute_keys):
  """Keys of the living steps, in the memory's type."""
  return lambda params, memory, lengths=None: compute_keys(
    *_mask_memory(params, memory, lengths)[:2]
  )


def _weighted_sum(e, values, mask):
  """Σₛ αₛ valuesₛ [..., M] and α, the softmax of e [S, ...] over the living steps."""
  α = jax.nn.softmax(e, axis=0, where=mask)
  return jnp.einsum("s...,s...m->...m", α.astype(values.dtype), values), α


def _dot_scores(query, keys, scaled):
  """query · keyₛ [S, ...], over √A if scaled, in float32 at least."""
  Q, A = query.shape[-1], keys.shape[-1]
  if Q != A:
    raise ValueError(
      f"a dot product needs a query as wide as the keys, {A}; got {Q}. Between different widths "
      "general(), additive(A) and multi_head(heads, A) learn to compare"
    )
  e = jnp.einsum(
    "...a,s...a->s...", query, keys, preferred_element_type=accumulation_dtype(keys.dtype)
  )
  return e / A**0.5 if scaled else e


def _dot_product_attention(
  name, scaled=False, init=lambda *_: {}, compute_keys=lambda params, memory: memory
):
  """A query and keys of one width, compared as they are."""

  def apply(params, query, keys, memory, mask, coverage):
    return _weighted_sum(_dot_scores(query, keys, scaled), memory, mask)

  return Attention(name, init, _with_masked_memory(compute_keys), apply)


def _glorot(key, *shape):
  return jax.nn.initializers.glorot_uniform()(key, shape)


@functools.cache
def dot_attention() -> Attention:
  """eₛ = q · mₛ, Q = M: Luong, Pham & Manning 2015. No parameters."""
  return _dot_product_attention("dot()")


@functools.cache
def scaled_dot_attention() -> Attention:
  """eₛ = q · mₛ / √M, Q = M: Vaswani et al. 2017. No parameters."""
  return _dot_product_attention("scaled_dot()", scaled=True)


@functools.cache
def general_attention() -> Attention:
  """eₛ = q · W mₛ: Luong, Pham & Manning 2015. W [Q, M] Glorot uniform."""
  init = lambda key, Q, M: {"W": _glorot(key, Q, M)}
  return _dot_product_attention(
    "general()", init=init, compute_keys=lambda params, memory: memory @ params["W"].T
  )


@functools.cache
def additive_attention(A: int, use_coverage: bool = False) -> Attention:
  """A net of A hidden units compares: Bahdanau, Cho & Bengio 2015.

      eₛ = v · tanh(q W + mₛ U + b)
      eₛ = v · tanh(q W + mₛ U + b + cₛ w_c)       with coverage: See, Liu & Manning 2017

  W [Q, A] and U [M, A] Glorot uniform, b [A] zero, v [A] ~ N(0, 1/A); with coverage, the sum c of
  the weights so far, w_c [A] zero, so that it learns to matter. Raises ValueError for A < 1.
  """
  if A < 1:
    raise ValueError(f"additive needs a positive number of hidden units; got {A!r}")

  def init(key, Q, M):
    keys = jax.random.split(key, 3)
    params = {"W": _glorot(keys[0], Q, A), "U": _glorot(keys[1], M, A), "b": jnp.zeros(A)}
    params["v"] = jax.random.normal(keys[2], (A,)) * A**-0.5
    return params | ({"w_c": jnp.zeros(A)} if use_coverage else {})

  def apply(params, query, keys, memory, mask, c):
    if use_coverage:
      keys = keys + jnp.asarray(c, keys.dtype)[..., None] @ params["w_c"][None]
    z = jnp.tanh((query @ params["W"])[None] + keys)
    return _weighted_sum(
      jnp.matmul(z, params["v"], preferred_element_type=accumulation_dtype(z.dtype)), memory, mask
    )

  keys = _with_masked_memory(lambda params, memory: memory @ params["U"] + params["b"])
  name = f"additive({A}, coverage=True)" if use_coverage else f"additive({A})"
  return Attention(name, init, keys, apply, uses_coverage=use_coverage)


@functools.cache
def multi_head_attention(num_heads: int, A: int) -> Attention:
  """Scaled dot products, each of its own A / heads features: Vaswani et al. 2017.

      eₛʰ = (q W_q)ʰ · (mₛ W_k)ʰ / √(A / heads)
      context = [Σₛ αₛ¹ (mₛ W_v)¹, Σₛ αₛ² (mₛ W_v)², ...] W_o

  W_q [Q, A], W_k and W_v [M, A], W_o [A, A], Glorot uniform. The context has A features; the α that
  comes back is the mean over heads. Raises ValueError where heads do not divide A.
  """
  if num_heads < 1 or A < 1 or A % num_heads:
    raise ValueError(f"multi_head needs heads that divide its A features; got {num_heads} and {A}")

  def init(key, Q, M):
    shapes = {"W_q": (Q, A), "W_k": (M, A), "W_v": (M, A), "W_o": (A, A)}
    return {n: _glorot(k, *s) for k, (n, s) in zip(jax.random.split(key, 4), shapes.items())}

  def apply(params, query, keys, memory, mask, coverage):
    e = _dot_scores(split(query @ params["W_q"]), keys["k"], scaled=True)
    context, α = _weighted_sum(e, keys["v"], mask[..., None])
    return context.reshape(*context.shape[:-2], A) @ params["W_o"], α.mean(-1)

  split = lambda x: x.reshape(
    *x.shape[:-1], num_heads, A // num_heads
  )  # heads are one more batch axis
  keys = _with_masked_memory(
    lambda params, memory: {n: split(memory @ params[f"W_{n}"]) for n in "kv"}
  )
  return Attention(f"multi_head({num_heads}, {A})", init, keys, apply, context_features=lambda M: A)


def coverage_loss(α: Array, lengths: Array | None = None) -> Array:
  """How much each step attends to what was attended to before: See, Liu & Manning 2017.

      lossₜ = Σₛ min(αₜₛ, cₜₛ),  cₜ = Σ αₜ' over t' < t

  Args:
    α: [T, S, ...].
    lengths: [...], integer steps of each row of the target; None where all have T.

  Returns:
    [T, ...]; 0 past a row's length.
  """
  α = jnp.moveaxis(α, 1, -1)
  α = jnp.where(padding_mask(α, lengths)[..., None], α, 0)
  return jnp.minimum(α, jnp.cumsum(α, 0) - α).sum(-1)
