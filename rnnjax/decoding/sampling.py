"""The loop over time that is fed by itself: writing on, token by token."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rnnjax.cells.base import accumulation_dtype
from rnnjax.types import Array, Carry, Key, Params

Sampler = Callable[[Key, Array], Array]  # key, logits [B, V] -> tokens [B]


def filter_top_k(logits: Array, k: int) -> Array:
  """The k likeliest of logits [..., V], and what equals the last of them; the others become −∞.

  Fan, Lewis & Dauphin 2018.
  """
  least = jax.lax.top_k(logits, k)[0][..., -1:]
  return jnp.where(logits >= least, logits, -jnp.inf)


def filter_top_p(logits: Array, p: float) -> Array:
  """The fewest likeliest of logits [..., V] that have probability p together, and what equals the
  last of them; the others become −∞.

  Nucleus sampling: Holtzman et al. 2020.
  """
  falling = -jnp.sort(-logits, -1)
  q = jax.nn.softmax(falling.astype(accumulation_dtype(falling.dtype)), -1)
  before = jnp.cumsum(q, -1) - q
  least = jnp.where(before < p, falling, jnp.inf).min(-1, keepdims=True)
  return jnp.where(logits >= least, logits, -jnp.inf)


def make_sampler(temperature: float = 1.0, top_k: int | None = None, top_p: float = 1.0) -> Sampler:
  """Draws a token from softmax(logits / temperature), of the top k or top p alone.

  Args:
    temperature: below 1 sharper, above 1 flatter; 0 always takes the likeliest.
    k: only the k likeliest may be drawn; all where it is None.
    p: only the likeliest that have probability p together.

  Raises:
    ValueError: a negative temperature, k below 1, p outside (0, 1]; or, at the first use, k above
      the size of the vocabulary.
  """
  if not 0 <= temperature < float("inf"):
    raise ValueError(f"temperature must be 0 or more, and finite; got {temperature}")
  if top_k is not None and top_k < 1:
    raise ValueError(f"top_k must be at least 1; got {top_k}")
  if not 0 < top_p <= 1:
    raise ValueError(f"top_p must lie in (0, 1]; got {top_p}")

  return _cached_sampler(float(temperature), top_k, float(top_p))


@functools.cache
def _cached_sampler(temperature, k, p):
  """The same function for the same arguments, so that jit compiles once."""

  def choose(key, logits):
    V = logits.shape[-1]
    if k is not None and k > V:
      raise ValueError(f"top_k must be at most the vocabulary's {V} entries; got {k}")
    if temperature < 1e-30:
      return jnp.argmax(logits, -1).astype(jnp.int32)
    logits = logits.astype(jnp.float32)
    logits = (logits - logits.max(-1, keepdims=True)) / temperature
    if k is not None:
      logits = filter_top_k(logits, k)
    if p < 1:
      logits = filter_top_p(logits, p)
    return jax.random.categorical(key, logits).astype(jnp.int32)

  return choose


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
  """Reads a prompt in one unroll, then writes on.

      carry, logits = read(params, prompt, lengths, carry)
      wₜ = choose(key, logits);  carry, logits = read(params, wₜ, None, carry)      t = 1 ... steps

  It compiles once for each shape of the prompt: pad prompts to few lengths.

  Args:
    read: params, tokens [T, B], lengths [B] or None, carry or None -> carry, logits [B, V] of what
      follows each row; such as `LanguageModel.read`.
    params: its parameters.
    prompt: [T, B], T ≥ 1.
    key: of all that is drawn.
    steps: how many tokens are written.
    lengths: [B], the tokens of each row's prompt, at least 1; None where all have T.
    carry: from where; None for the start.
    choose: key, logits -> tokens; `sample` makes one.

  Returns:
    carry, having read all that was written; tokens [steps, B].

  Raises:
    ValueError: an empty prompt.
  """
  if not prompt.shape[0]:
    raise ValueError("the prompt is empty; give at least one token, such as a line's end")

  def tick(state, key):
    carry, logits = state
    tokens = sampler(key, logits)
    return logits_fn(params, tokens[None], None, carry), tokens

  start = logits_fn(params, prompt, lengths, carry)
  (carry, _), tokens = jax.lax.scan(tick, start, jax.random.split(key, num_tokens))
  return carry, tokens
