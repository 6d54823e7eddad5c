"""Beam search for the most likely output sequences (Graves 2012; Sutskever et al. 2014)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.types import Array, Carry, Params


class Hypotheses(NamedTuple):
  """The k best hypotheses of each row, finished hypotheses before unfinished ones.

  Both groups are sorted by descending score. If fewer than k hypotheses are possible,
  the unused entries have length 0, log_p −∞ and finished False.

  Attributes:
    tokens: output tokens [k, T, B], filled with eos_id after the end.
    lengths: number of tokens of each hypothesis [k, B], without eos_id.
    scores: score s(y) of each hypothesis [k, B], as defined in `beam_search`.
    log_p: log probability of all tokens [k, B], including eos_id if the hypothesis is finished.
    finished: whether the hypothesis ended with eos_id [k, B].
  """

  tokens: Array
  lengths: Array
  scores: Array
  log_p: Array
  finished: Array


@functools.partial(
  jax.jit,
  static_argnames=(
    "logits_fn",
    "beam_size",
    "max_length",
    "eos_id",
    "coverage_fn",
    "no_repeat_ngram_size",
  ),
)
def beam_search(
  logits_fn: Callable,
  params: Params,
  carry: Carry | None,
  first_tokens: Array,
  *,
  beam_size: int,
  max_length: int,
  eos_id: int,
  length_penalty: float = 0.0,
  coverage_fn: Callable[[Carry], Array] | None = None,
  coverage_penalty: float = 0.0,
  no_repeat_ngram_size: int = 0,
) -> Hypotheses:
  """Search for the output sequences y with the highest scores.

      s(y) = log p(y) / ((5 + n) / 6)^α + β c(y)        n: number of tokens, including eos_id

  Each step extends the k most likely unfinished hypotheses by one token. If an extension by eos_id
  is among the k most likely extensions, it becomes a finished hypothesis. The number of unfinished
  hypotheses stays k. Each row keeps the k finished hypotheses with the highest scores. The loop
  stops after max_length steps, or earlier if no row has an unfinished hypothesis that can still
  enter the k best finished hypotheses. With beam_size=1 and no penalties, this is greedy search.
  The length penalty and the coverage penalty are from Wu et al. 2016. The coverage term is

      c(y) = Σₛ log min(Σₜ αₜₛ, 1)                      αₜₛ: attention of step t to source step s

  Args:
    logits_fn: (params, tokens [1, B], None, carry or None) -> carry and the logits [B, V] of the
      next token, as for `generate`. The function is vmapped over the k hypotheses of each row and
      always receives B rows. Arrays that all hypotheses of a row share, such as an encoder memory
      [S, B, M], belong in params, where they are not repeated.
    params: the parameters, and everything else that does not change during the search.
    carry: the initial carry, a pytree of arrays [B, ...]; None for the model's default.
    first_tokens: the token before the first output token [B], which is not part of the output. It
      is a begin-of-sequence token, or the last token of a prompt if `carry` is the carry after the
      earlier prompt tokens.
    beam_size: k, the number of hypotheses of each row.
    max_length: T, the maximum number of tokens, including eos_id.
    eos_id: the token that ends a sequence.
    length_penalty: α. Values above 0 favor longer sequences; 0 is no penalty.
    coverage_fn: carry -> c(y) [B], finite and at most 0, called with the carry from which the last
      token was predicted; None for no coverage. Coverage affects the scores, but not which
      hypotheses are extended.
    coverage_penalty: β ≥ 0; ignored without coverage_fn.
    no_repeat_ngram_size: n-grams of this size may occur only once in a sequence (Paulus et al.
      2018); 0 for no limit.

  Returns:
    The `beam_size` best hypotheses of each row, finished hypotheses first.

  Raises:
    ValueError: beam_size or max_length is below 1, no_repeat_ngram_size is below 0, V < 2, or
      eos_id is not in [0, V).
  """
  for name, value, minimum in (
    ("beam_size", beam_size, 1),
    ("max_length", max_length, 1),
    ("no_repeat_ngram_size", no_repeat_ngram_size, 0),
  ):
    if value < minimum:
      raise ValueError(f"{name} must be at least {minimum}; got {value}")
  start = logits_fn(params, first_tokens[None], None, carry)
  B, V = start[1].shape
  if V < 2 or not 0 <= eos_id < V:
    raise ValueError(f"eos_id must be in [0, V) with V ≥ 2 tokens; got eos_id={eos_id} and V={V}")

  α = jnp.float32(length_penalty)

  def penalty(n):
    return ((5 + jnp.float32(n)) / 6) ** α

  @functools.partial(jax.vmap, in_axes=1, out_axes=1)
  def next_logits(carry, tokens):
    return logits_fn(params, tokens[None], None, carry)

  def coverage_term(carry):
    if coverage_fn is None:
      return jnp.zeros((B, beam_size), jnp.float32)
    return (coverage_penalty * jax.vmap(coverage_fn, 1, 1)(carry)).astype(jnp.float32)

  def extend(t, unfinished, finished, carry, logits, coverage):
    """Extend the unfinished hypotheses of one row by one token at position t.

    Args:
      t: number of tokens of the unfinished hypotheses.
      unfinished, finished: the k unfinished and the k best finished hypotheses.
      carry: the carry of each unfinished hypothesis, arrays [k, ...].
      logits: logits of the next token [k, V].
      coverage: β c(y) of each unfinished hypothesis [k].

    Returns:
      The new unfinished hypotheses, the new finished hypotheses, and the new carry.
    """
    log_p = unfinished.log_p[:, None] + _log_softmax(logits)
    if no_repeat_ngram_size:
      banned = _repeated_ngram_tokens(unfinished.tokens, t, no_repeat_ngram_size, V)
      log_p = jnp.put_along_axis(log_p, banned, -jnp.inf, 1, inplace=False, mode="drop")

    # 2k candidates are enough: each hypothesis has one extension by eos_id, so at least k
    # candidates are unfinished.
    log_p, indices = jax.lax.top_k(log_p.ravel(), 2 * beam_size)
    parents, token = indices // V, indices % V
    ended = token == eos_id
    candidates = Hypotheses(
      tokens=unfinished.tokens[parents].at[:, t].set(token),
      lengths=t + ~ended,
      scores=log_p / penalty(t + 1) + coverage[parents],
      log_p=log_p,
      finished=ended,
    )

    # Mask instead of slicing: if the result of top_k were sliced again, XLA would sort all k V.
    newly_finished = ended & (jnp.arange(2 * beam_size) < beam_size)
    scores = jnp.where(newly_finished, candidates.scores, -jnp.inf)
    scores = jnp.concatenate([finished.scores, scores])
    finished = _take(_concatenate(finished, candidates), jax.lax.top_k(scores, beam_size)[1])
    continuing = jnp.argsort(ended, stable=True)[:beam_size]
    return _take(candidates, continuing), finished, _take(carry, parents[continuing])

  def can_improve(state):
    """Return whether the search must continue, i.e. whether more steps can improve a result.

    This is the case if t < max_length and, in some row, an unfinished hypothesis may get a higher
    score than the worst finished hypothesis. log p can only decrease, and the divisor
    ((5 + n) / 6)^α is monotone in n. Dividing log p by the larger of the divisors for n = t + 1 and
    n = max_length gives an upper bound of the score.
    """
    t, unfinished, finished, _, _ = state
    bound = unfinished.log_p[:, 0] / jnp.maximum(penalty(t + 1), penalty(max_length))
    return (t < max_length) & (bound > finished.scores[:, -1]).any()

  def step(state):
    t, unfinished, finished, carry, logits = state
    extend_rows = jax.vmap(functools.partial(extend, t))
    unfinished, finished, carry = extend_rows(
      unfinished, finished, carry, logits, coverage_term(carry)
    )
    return t + 1, unfinished, finished, *next_logits(carry, unfinished.tokens[:, :, t])

  impossible = jnp.full((B, beam_size), -jnp.inf, jnp.float32)
  finished = Hypotheses(
    tokens=jnp.full((B, beam_size, max_length), eos_id, jnp.int32),
    lengths=jnp.zeros((B, beam_size), jnp.int32),
    scores=impossible,
    log_p=impossible,
    finished=jnp.zeros((B, beam_size), bool),
  )
  # The search starts from one empty hypothesis; the other k − 1 have log p = −∞.
  unfinished = finished._replace(log_p=impossible.at[:, 0].set(0))
  start = jax.tree.map(lambda a: jnp.stack([a] * beam_size, 1), start)
  state = (jnp.int32(0), unfinished, finished, *start)
  _, unfinished, finished, _, _ = jax.lax.while_loop(can_improve, step, state)

  def rank(finished, unfinished):
    hypotheses = _concatenate(finished, unfinished)
    order = jnp.lexsort((-hypotheses.scores, ~hypotheses.finished))
    return _take(hypotheses, order[:beam_size])

  return jax.vmap(rank, out_axes=-1)(finished, unfinished)


def _log_softmax(logits):
  """Return log softmax in float32; −∞ for every token if all logits are −∞."""
  logits = logits.astype(jnp.float32)
  return jnp.where(logits == -jnp.inf, -jnp.inf, jax.nn.log_softmax(logits))


def _repeated_ngram_tokens(tokens, t, n, V):
  """Return the tokens [k, T] that would complete a repeated n-gram at position t.

  Entry j of a hypothesis is wⱼ if wⱼ₋₁ ... wⱼ₋ₙ₊₁ = wₜ₋₁ ... wₜ₋ₙ₊₁, and V (no token) otherwise.
  """
  j = jnp.arange(tokens.shape[1])[None]
  is_repeated = jnp.broadcast_to((n - 1 <= j) & (j < t), tokens.shape)
  for i in range(1, n):
    is_repeated &= jnp.roll(tokens, i, 1) == tokens[:, t - i, None]
  return jnp.where(is_repeated, tokens, V)


def _take(tree, indices):
  return jax.tree.map(lambda a: a[indices], tree)


def _concatenate(*trees):
  return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)
