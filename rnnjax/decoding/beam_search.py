"""The likeliest texts, several held at once: beam search (Graves 2012; Sutskever et al. 2014)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.types import Array, Carry, Params


class Hypotheses(NamedTuple):
  """The k texts found for each row, best first: those that ended before those that did not.

  Where fewer than k are possible the rest have length 0, log p = −∞ and did not end.

  Attributes:
    tokens: [k, T, B]; `end` from where the text ends.
    lengths: [k, B], without `end`.
    scores: [k, B], by which they are ordered.
    log_p: [k, B], of all tokens, `end` among them where it came.
    finished: [k, B], whether it came.
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
  """Searches the text y of highest score, and the next best; a width of 1 is greedy search, where
  there are no penalties.

      s(y) = log p(y) / ((5 + n) / 6)^α + β c(y)        n tokens, `end` among them

  The k likeliest texts of t tokens are read at once. Of their k likeliest continuations those
  that end are finished, and take no place from the k likeliest that do not. Each row keeps its k
  finished texts of highest score, and the loop stops when in no row any other can still be
  better. Both penalties are from Wu et al. 2016, whose coverage is

      c(y) = Σₛ log min(Σₜ aₜₛ, 1)                      aₜₛ: attention of step t to the source's s

  Args:
    read: params, tokens [1, B], None, carry or None -> carry, logits [B, V] of what follows each
      row, as for `generate`. It is mapped over the k texts of each row and sees the B rows alone:
      what all texts of a row share, such as the memory [S, B, H] of an encoder, stands in params
      as it is, and is never repeated.
    params: its parameters, and all else that it does not change.
    carry: from where, leaves [B, ...]; None for the start.
    first: [B], the token that begins every text; the last one of a prompt whose others carry has
      read. It is no part of the text.
    width: k.
    steps: T, the most tokens of a text, `end` among them.
    end: the token that ends a text.
    length_penalty: α; above 0 longer texts gain, 0 is none.
    coverage: the carry that predicts the last token -> c(y) [B], finite and at most 0; None for
      none. It judges what is found and does not guide the search.
    coverage_penalty: β ≥ 0, of the coverage where there is one.
    block: no n-gram of this size may occur twice in a text (Paulus et al. 2018); 0 for none.

  Returns:
    The best `width` of the texts that ended, followed by those that did not.

  Raises:
    ValueError: width or steps below 1, block below 0, fewer than two symbols, or `end` not one of
      them.
  """
  for name, value, least in (
    ("beam_size", beam_size, 1),
    ("max_length", max_length, 1),
    ("block", no_repeat_ngram_size, 0),
  ):
    if value < least:
      raise ValueError(f"{name} must be at least {least}; got {value}")
  start = logits_fn(params, first_tokens[None], None, carry)
  B, V = start[1].shape
  if V < 2 or not 0 <= eos_id < V:
    raise ValueError(f"end must be one of at least 2 symbols; got {eos_id} of {V}")

  α = jnp.float32(length_penalty)
  penalty = lambda n: ((5 + jnp.float32(n)) / 6) ** α
  follow = jax.vmap(lambda carry, tokens: logits_fn(params, tokens[None], None, carry), 1, 1)

  def covered(carry):
    if coverage_fn is None:
      return jnp.zeros((B, beam_size), jnp.float32)
    return (coverage_penalty * jax.vmap(coverage_fn, 1, 1)(carry)).astype(jnp.float32)

  def grow(t, live, finished, carry, logits, covered):
    """One more token in one row: logits [k, V], covered [k]."""
    log_p = live.log_p[:, None] + _log_softmax(logits)
    if no_repeat_ngram_size:
      banned = _repeated_ngram_tokens(live.tokens, t, no_repeat_ngram_size, V)
      log_p = jnp.put_along_axis(log_p, banned, -jnp.inf, 1, inplace=False, mode="drop")

    # Twice k are enough: each text ends in one way, so at most k of the best can be ends.
    log_p, at = jax.lax.top_k(log_p.ravel(), 2 * beam_size)
    parents, token = at // V, at % V
    ended = token == eos_id
    grown = Hypotheses(
      tokens=live.tokens[parents].at[:, t].set(token),
      lengths=t + ~ended,
      scores=log_p / penalty(t + 1) + covered[parents],
      log_p=log_p,
      finished=ended,
    )

    # Masked and not cut: XLA would sort all k V if what top_k returns were sliced once more.
    leaving = ended & (jnp.arange(2 * beam_size) < beam_size)
    scores = jnp.concatenate([finished.scores, jnp.where(leaving, grown.scores, -jnp.inf)])
    finished = _take(_concatenate(finished, grown), jax.lax.top_k(scores, beam_size)[1])
    on = jnp.argsort(ended, stable=True)[:beam_size]
    return _take(grown, on), finished, _take(carry, parents[on])

  def hopeful(state):
    """Whether in any row a text may still be better than the worst that is kept.

    log p can only fall, and the penalty of what it will be divided by is monotone in n.
    """
    t, live, finished, _, _ = state
    bound = live.log_p[:, 0] / jnp.maximum(penalty(t + 1), penalty(max_length))
    return (t < max_length) & (bound > finished.scores[:, -1]).any()

  def tick(state):
    t, live, finished, carry, logits = state
    grow_all = jax.vmap(functools.partial(grow, t))
    live, finished, carry = grow_all(live, finished, carry, logits, covered(carry))
    return t + 1, live, finished, *follow(carry, live.tokens[:, :, t])

  never = jnp.full((B, beam_size), -jnp.inf, jnp.float32)
  finished = Hypotheses(
    tokens=jnp.full((B, beam_size, max_length), eos_id, jnp.int32),
    lengths=jnp.zeros((B, beam_size), jnp.int32),
    scores=never,
    log_p=never,
    finished=jnp.zeros((B, beam_size), bool),
  )
  live = finished._replace(log_p=never.at[:, 0].set(0))  # one text, the empty one
  start = jax.tree.map(lambda a: jnp.stack([a] * beam_size, 1), start)
  state = (jnp.int32(0), live, finished, *start)
  _, live, finished, _, _ = jax.lax.while_loop(hopeful, tick, state)

  def ranked(finished, live):
    found = _concatenate(finished, live)
    return _take(found, jnp.lexsort((-found.scores, ~found.finished))[:beam_size])

  return jax.vmap(ranked, out_axes=-1)(finished, live)


def _log_softmax(logits):
  """In float32; where all logits are −∞, nothing can follow."""
  logits = logits.astype(jnp.float32)
  return jnp.where(logits == -jnp.inf, -jnp.inf, jax.nn.log_softmax(logits))


def _repeated_ngram_tokens(tokens, t, n, V):
  """Of k texts [k, T], t long: the tokens that would make their last n-gram a repetition.

  wⱼ where wⱼ₋₁ ... wⱼ₋ₙ₊₁ = wₜ₋₁ ... wₜ₋ₙ₊₁, and V for every other j < T.
  """
  j = jnp.arange(tokens.shape[1])[None]
  same = jnp.broadcast_to((n - 1 <= j) & (j < t), tokens.shape)
  for i in range(1, n):
    same &= jnp.roll(tokens, i, 1) == tokens[:, t - i, None]
  return jnp.where(same, tokens, V)


def _take(tree, indices):
  return jax.tree.map(lambda a: a[indices], tree)


def _concatenate(*trees):
  return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees)
