"""Autoregressive sampling: temperature, top-k, top-p."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rnnjax.cells.base import accumulation_dtype
from rnnjax.types import Array, Carry, Key, Params

Sampler = Callable[[Key, Array], Array]  # key, logits [B, V] -> tokens [B]


def filter_top_k(logits: Array, k: int) -> Array:
  """Set all logits below the k-th largest to −∞ (Fan, Lewis & Dauphin 2018).

  Logits equal to the k-th largest are kept.

  Args:
    logits: [..., V].
    k: number of logits to keep, at most V.
  """
  threshold = jax.lax.top_k(logits, k)[0][..., -1:]
  return jnp.where(logits >= threshold, logits, -jnp.inf)


def filter_top_p(logits: Array, p: float) -> Array:
  """Set all logits outside the nucleus to −∞ (nucleus sampling: Holtzman et al. 2020).

  The nucleus is the smallest set of most likely tokens with total probability at least p. Logits
  equal to the smallest logit of the nucleus are kept.

  Args:
    logits: [..., V].
    p: minimum total probability of the nucleus, in (0, 1].
  """
  descending = -jnp.sort(-logits, -1)
  q = jax.nn.softmax(descending.astype(accumulation_dtype(descending.dtype)), -1)
  total_before = jnp.cumsum(q, -1) - q
  threshold = jnp.where(total_before < p, descending, jnp.inf).min(-1, keepdims=True)
  return jnp.where(logits >= threshold, logits, -jnp.inf)


def make_sampler(temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Sampler:
  """Return a sampler that draws tokens from softmax(logits / temperature).

  Calls with equal arguments return the same function, so jit does not recompile.

  Args:
    temperature: values below 1 make the distribution sharper, values above 1 make it flatter; 0
      always selects the most likely token.
    top_k: sample from the k most likely tokens only; None for no limit.
    top_p: sample from the nucleus of this total probability only; 1 for no limit.

  Returns:
    (key, logits [B, V]) -> tokens [B]. The sampler raises ValueError if top_k is larger than V.

  Raises:
    ValueError: temperature is negative or not finite, top_k < 1, or top_p is outside (0, 1].
  """
  if not 0 <= temperature < float("inf"):
    raise ValueError(f"temperature must be 0 or more, and finite; got {temperature}")
  if top_k is not None and top_k < 1:
    raise ValueError(f"top_k must be at least 1; got {top_k}")
  if not 0 < top_p <= 1:
    raise ValueError(f"top_p must be in (0, 1]; got {top_p}")

  return _cached_sampler(float(temperature), top_k, float(top_p))


@functools.cache
def _cached_sampler(temperature, k, p):
  """Return the sampler of `make_sampler`, the same function for equal arguments."""

  def sample(key, logits):
    V = logits.shape[-1]
    if k is not None and k > V:
      raise ValueError(f"top_k must be at most the vocabulary size {V}; got {k}")
    if temperature < 1e-30:  # so small that dividing by it overflows
      return jnp.argmax(logits, -1).astype(jnp.int32)
    logits = logits.astype(jnp.float32)
    logits = (logits - logits.max(-1, keepdims=True)) / temperature
    if k is not None:
      logits = filter_top_k(logits, k)
    if p < 1:
      logits = filter_top_p(logits, p)
    return jax.random.categorical(key, logits).astype(jnp.int32)

  return sample


@functools.partial(jax.jit, static_argnames=("logits_fn", "num_tokens", "sampler"))
def generate(
  logits_fn: Callable,
  params: Params,
  prompt: Array,
  key: Key,
  *,
  num_tokens: int,
  lengths: Array | None = None,
  carry: Carry | None = None,
  sampler: Sampler = make_sampler(),
) -> tuple[Carry, Array]:
  """Process a prompt in one unroll, then generate tokens one by one.

      carry, logits = logits_fn(params, prompt, lengths, carry)
      wₜ = sampler(key, logits);  carry, logits = logits_fn(params, wₜ, None, carry)    t ≥ 1

  The function is compiled once for each prompt shape, so prompts should be padded to a few lengths.

  Args:
    logits_fn: (params, tokens [T, B], lengths [B] or None, carry or None) -> carry and the logits
      [B, V] of the token that follows each row, e.g. `LanguageModel.predict_next`.
    params: the parameters that are passed to `logits_fn`.
    prompt: tokens [T, B], T ≥ 1.
    key: the random key of all samples.
    num_tokens: tokens to generate for each row.
    lengths: number of prompt tokens of each row [B], at least 1; None if every row has T.
    carry: the initial carry; None for the model's default.
    sampler: (key, logits) -> tokens, as returned by `make_sampler`.

  Returns:
    The carry after the last generated token, and the generated tokens [num_tokens, B].

  Raises:
    ValueError: the prompt is empty.
  """
  if not prompt.shape[0]:
    raise ValueError("the prompt is empty; it needs at least one token, such as the end of a line")

  def step(state, key):
    carry, logits = state
    tokens = sampler(key, logits)
    return logits_fn(params, tokens[None], None, carry), tokens

  state = logits_fn(params, prompt, lengths, carry)
  (carry, _), tokens = jax.lax.scan(step, state, jax.random.split(key, num_tokens))
  return carry, tokens
