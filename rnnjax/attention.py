"""Attention: a weighted sum over a memory, with weights computed from a query.

A memory is an array of S steps with M features, such as the outputs of an encoder. The keys depend
only on the memory, so compute the keys once and use them for all queries:

    keys = attention.compute_keys(params, memory, lengths)
    context, α = attend(attention, params, query, keys, memory, lengths)

Array shapes in this module use Q for the features of a query, M for the features of the memory, and
A for the features of the keys. Attention pooling of a sequence is in `rnnjax.pooling`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.cells.base import accumulation_dtype
from rnnjax.masking import padding_mask
from rnnjax.types import Array, Key, Params


def _memory_features(M: int) -> int:
  """Return the number of context features, M: the context is a weighted sum of memory steps."""
  return M


class Attention(NamedTuple):
  """An attention mechanism, as pure functions.

  Attributes:
    name: string that repr() returns, e.g. additive(128).
    init: (key, Q, M) -> params, a flat dict of arrays.
    compute_keys: (params, memory [S, ..., M], lengths=None) -> keys, arrays [S, ...]. The
      memory is first set to 0 at padded steps.
    apply: (params, query [..., Q], keys, memory, mask [S, ...], coverage) -> context
      [..., features] and attention weights α [S, ...]. The memory must be 0 where the mask is
      False. Do not call `apply` directly: `attend` checks the arguments and masks the memory.
    context_features: M -> number of features of the context.
    uses_coverage: whether `apply` uses `coverage`, the sum of the attention weights of all earlier
      queries.
  """

  name: str
  init: Callable[[Key, int, int], Params]
  compute_keys: Callable[..., Any]
  apply: Callable[..., tuple[Array, Array]]
  context_features: Callable[[int], int] = _memory_features
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
  """Attend to a memory with one query for each batch row.

      αₛ = exp(eₛ) / Σₛ exp(eₛ)    for s < length, else 0
      context = Σₛ αₛ memoryₛ

  The scores e are computed from the query and the keys. The softmax is computed in float32 or
  wider. Padding of the memory never affects outputs or gradients, even if it is NaN.

  Args:
    attention: the attention mechanism.
    params: parameters of the attention mechanism.
    query: one query for each row, [..., Q].
    keys: attention.compute_keys(params, memory, lengths).
    memory: [S, ..., M], floating point; any number of batch axes.
    lengths: valid steps of each row of the memory [...], integer; None if every row has S.
    coverage: the sum of the attention weights of all earlier queries [S, ...]; zeros for the first
      query. Required if the attention uses coverage; otherwise it must be None.

  Returns:
    The context [..., features] in the memory's dtype, and the attention weights α [S, ...]. Both
    are 0 for a row of length 0.

  Raises:
    ValueError: the shape of query, lengths or coverage does not match the memory.
    ValueError: the attention uses coverage and coverage is None, or the attention does not use
      coverage and coverage is passed.
  """
  params, memory, mask = _mask_memory(params, memory, lengths)
  batch = memory.shape[1:-1]
  if query.shape[:-1] != batch:
    raise ValueError(
      f"query must have the batch shape {batch} of memory {memory.shape}, which is time-major "
      f"[S, *batch, M]; got {query.shape}. Is memory batch-major?"
    )
  coverage_shape = None if coverage is None else coverage.shape
  if attention.uses_coverage and coverage_shape != mask.shape:
    raise ValueError(
      f"{attention} needs coverage of shape {mask.shape}; got {coverage_shape}. Coverage depends "
      "on the earlier queries, so attend_all cannot be used: call attend once for each query"
    )
  if not attention.uses_coverage and coverage is not None:
    raise ValueError(f"{attention} does not use coverage; got coverage of shape {coverage_shape}")
  return attention.apply(params, query, keys, memory, mask, coverage)


def attend_all(
  attention: Attention,
  params: Params,
  queries: Array,
  keys: Any,
  memory: Array,
  lengths: Array | None = None,
) -> tuple[Array, Array]:
  """Attend to a memory with T independent queries at once.

  The results are equal to the results of T calls of `attend`. Dot products are computed as matrix
  products. `additive_attention(A)` allocates an intermediate array [T, S, ..., A].

  Args:
    attention: an attention mechanism without coverage.
    params: parameters of the attention mechanism.
    queries: T queries for each row, [T, ..., Q].
    keys, memory, lengths: as for `attend`.

  Returns:
    The contexts [T, ..., features] and the attention weights α [T, S, ...].

  Raises:
    ValueError: the shape of queries or lengths does not match the memory, or the attention uses
      coverage.
  """

  def attend_one(query):
    return attend(attention, params, query, keys, memory, lengths)

  return jax.vmap(attend_one)(queries)


def _mask_memory(params, memory, lengths):
  """Return params in the memory's dtype, the memory with padding set to 0, and the padding mask."""
  memory = jnp.asarray(memory)
  mask = padding_mask(memory, lengths, "memory", "S")
  params = jax.tree.map(lambda p: jnp.asarray(p, memory.dtype), params)
  return params, jnp.where(mask[..., None], memory, 0), mask


def _with_masked_memory(compute_keys):
  """Wrap compute_keys, so that it gets the masked memory, and params in the memory's dtype."""

  def masked(params, memory, lengths=None):
    params, memory, _ = _mask_memory(params, memory, lengths)
    return compute_keys(params, memory)

  return masked


def _weighted_sum(e, values, mask):
  """Return the weighted sum Σₛ αₛ valuesₛ [..., M] and the weights α [S, ...].

  α is the softmax of the scores e [S, ...] over the unmasked steps.
  """
  α = jax.nn.softmax(e, axis=0, where=mask)
  return jnp.einsum("s...,s...m->...m", α.astype(values.dtype), values), α


def _dot_scores(query, keys, scaled):
  """Return the scores query · keyₛ [S, ...] in float32 or wider, divided by √A if `scaled`.

  Raises:
    ValueError: the query and the keys differ in their number of features.
  """
  Q, A = query.shape[-1], keys.shape[-1]
  if Q != A:
    raise ValueError(
      f"a dot product needs queries as wide as the keys, {A}; got {Q}. general_attention(), "
      "additive_attention(A) and multi_head_attention(num_heads, A) compare different widths"
    )
  e = jnp.einsum(
    "...a,s...a->s...", query, keys, preferred_element_type=accumulation_dtype(keys.dtype)
  )
  return e / A**0.5 if scaled else e


def _no_params(key, Q, M):
  return {}


def _memory_keys(params, memory):
  return memory


def _dot_product_attention(name, scaled=False, init=_no_params, compute_keys=_memory_keys):
  """Return an attention mechanism whose scores are the dot products of query and keys."""

  def apply(params, query, keys, memory, mask, coverage):
    return _weighted_sum(_dot_scores(query, keys, scaled), memory, mask)

  return Attention(name, init, _with_masked_memory(compute_keys), apply)


def _glorot(key, *shape):
  return jax.nn.initializers.glorot_uniform()(key, shape)


# The factories are cached, because a new Attention object at each call would make jit recompile.


@functools.cache
def dot_attention() -> Attention:
  """Return dot-product attention with scores eₛ = q · mₛ (Luong, Pham & Manning 2015).

  The query and the memory must have the same number of features, Q = M. There are no parameters.
  """
  return _dot_product_attention("dot()")


@functools.cache
def scaled_dot_attention() -> Attention:
  """Return scaled dot-product attention with scores eₛ = q · mₛ / √M (Vaswani et al. 2017).

  The query and the memory must have the same number of features, Q = M. There are no parameters.
  """
  return _dot_product_attention("scaled_dot()", scaled=True)


@functools.cache
def general_attention() -> Attention:
  """Return bilinear attention with scores eₛ = q · W mₛ (Luong, Pham & Manning 2015).

  Parameters: W [Q, M], Glorot uniform.
  """

  def init(key, Q, M):
    return {"W": _glorot(key, Q, M)}

  def compute_keys(params, memory):
    return memory @ params["W"].T

  return _dot_product_attention("general()", init=init, compute_keys=compute_keys)


@functools.cache
def additive_attention(A: int, use_coverage: bool = False) -> Attention:
  """Return additive attention: an MLP with A hidden units computes the scores.

      eₛ = v · tanh(q W + mₛ U + b)               Bahdanau, Cho & Bengio 2015
      eₛ = v · tanh(q W + mₛ U + b + cₛ w_c)      with coverage: See, Liu & Manning 2017

  The coverage c is the sum of the attention weights of all earlier queries.

  Parameters: W [Q, A] and U [M, A] Glorot uniform, b [A] zero, v [A] ~ N(0, 1/A). With coverage
  there is also w_c [A], initialized to zero, so that coverage has no effect before training.

  Args:
    A: number of hidden units.
    use_coverage: whether the scores depend on the coverage.

  Raises:
    ValueError: A < 1.
  """
  if A < 1:
    raise ValueError(f"additive_attention needs at least one hidden unit; got A={A!r}")

  def init(key, Q, M):
    keys = jax.random.split(key, 3)
    params = {
      "W": _glorot(keys[0], Q, A),
      "U": _glorot(keys[1], M, A),
      "b": jnp.zeros(A),
      "v": jax.random.normal(keys[2], (A,)) * A**-0.5,
    }
    if use_coverage:
      params["w_c"] = jnp.zeros(A)
    return params

  @_with_masked_memory
  def compute_keys(params, memory):
    return memory @ params["U"] + params["b"]

  def apply(params, query, keys, memory, mask, c):
    if use_coverage:
      keys = keys + jnp.asarray(c, keys.dtype)[..., None] @ params["w_c"][None]
    z = jnp.tanh((query @ params["W"])[None] + keys)
    e = jnp.matmul(z, params["v"], preferred_element_type=accumulation_dtype(z.dtype))
    return _weighted_sum(e, memory, mask)

  name = f"additive({A}, use_coverage=True)" if use_coverage else f"additive({A})"
  return Attention(name, init, compute_keys, apply, uses_coverage=use_coverage)


@functools.cache
def multi_head_attention(num_heads: int, A: int) -> Attention:
  """Return multi-head attention with A / num_heads features per head (Vaswani et al. 2017).

      eₛʰ = (q W_q)ʰ · (mₛ W_k)ʰ / √(A / num_heads)
      context = [Σₛ αₛ¹ (mₛ W_v)¹, Σₛ αₛ² (mₛ W_v)², ...] W_o

  Parameters: W_q [Q, A], W_k and W_v [M, A], W_o [A, A], Glorot uniform. The context has A
  features. `attend` returns the mean of the attention weights α over the heads.

  Args:
    num_heads: number of heads; must divide A.
    A: total number of features of all heads.

  Raises:
    ValueError: num_heads does not divide A, num_heads < 1, or A < 1.
  """
  if num_heads < 1 or A < 1 or A % num_heads:
    raise ValueError(
      f"multi_head_attention needs a positive number of heads that divides A; got {num_heads} "
      f"heads and A={A}"
    )

  def init(key, Q, M):
    shapes = {"W_q": (Q, A), "W_k": (M, A), "W_v": (M, A), "W_o": (A, A)}
    keys = jax.random.split(key, len(shapes))
    return {name: _glorot(k, *shape) for k, (name, shape) in zip(keys, shapes.items())}

  def split(x):
    """Reshape [..., A] to [..., num_heads, A / num_heads], so that heads become a batch axis."""
    return x.reshape(*x.shape[:-1], num_heads, A // num_heads)

  @_with_masked_memory
  def compute_keys(params, memory):
    return {"k": split(memory @ params["W_k"]), "v": split(memory @ params["W_v"])}

  def apply(params, query, keys, memory, mask, coverage):
    e = _dot_scores(split(query @ params["W_q"]), keys["k"], scaled=True)
    context, α = _weighted_sum(e, keys["v"], mask[..., None])
    return context.reshape(*context.shape[:-2], A) @ params["W_o"], α.mean(-1)

  def context_features(M):
    return A

  return Attention(f"multi_head({num_heads}, {A})", init, compute_keys, apply, context_features)


def coverage_loss(α: Array, lengths: Array | None = None) -> Array:
  """Return the coverage loss, which penalizes repeated attention (See, Liu & Manning 2017).

      lossₜ = Σₛ min(αₜₛ, cₜₛ),  cₜ = Σ αₜ' over t' < t

  Args:
    α: attention weights [T, S, ...].
    lengths: valid target steps of each row [...], integer; None if every row has T.

  Returns:
    The loss of each target step, [T, ...]; 0 for padded steps.
  """
  α = jnp.moveaxis(α, 1, -1)
  α = jnp.where(padding_mask(α, lengths)[..., None], α, 0)
  return jnp.minimum(α, jnp.cumsum(α, 0) - α).sum(-1)
