"""The last layer of a tagger: scores of tags at each step to tags of the whole sequence.

A linear-chain conditional random field (Lafferty, McCallum & Pereira 2001) scores a sequence of
tags y by its tags and by its neighbours,

    s(y) = a[y₁] + Σₜ sₜ[yₜ] + Σₜ A[yₜ₋₁, yₜ] + e[y_T],    p(y) = exp s(y) / Z,

and one recurrence, a cell like any other, sums over all Kᵀ of them:

    αₜ[j] = sₜ[j] + ⊕ᵢ (αₜ₋₁[i] + A[i, j])

With ⊕ = log Σ exp it is the forward algorithm and ends in log Z; with ⊕ = max it is Viterbi's. No
backward pass is written: ∂ log Z / ∂sₜ[k] is the marginal p(yₜ = k), and ∂ max s(y) / ∂sₜ the best
path, one-hot (Eisner 2016; Mensch & Blondel 2018).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax.cells.base import accumulation_dtype, cell_factory, zeros_like_batch
from rnnjax.masking import padding_mask
from rnnjax.types import Array, Key, Params
from rnnjax.unroll import first_input, unroll

FORBIDDEN_SCORE = -1e9  # the score of what may not be; finite, for -∞ minus -∞ is no number


class TagLayer(NamedTuple):
  """The last layer of a tagger, over K tags.

  Attributes:
    name: how it prints, e.g. linear_chain(9).
    number: K.
    init: key -> params.
    log_likelihood: params, scores [T, ..., K], tags [T, ...], lengths [...] -> log p(y) [...].
    marginals: params, scores, lengths -> p(yₜ = k) [T, ..., K].
    best: params, scores, lengths -> the likeliest y [T, ...].
    What lies beyond a row's length has marginals 0 and tag 0; a row of length 0 has log p = 0.
  """

  name: str
  num_tags: int
  init: Callable[[Key], Params]
  log_likelihood: Callable[[Params, Array, Array, Array | None], Array]
  marginals: Callable[[Params, Array, Array | None], Array]
  best_tags: Callable[[Params, Array, Array | None], Array]

  def __repr__(self):
    return self.name


@functools.cache
def independent(num_tags: int) -> TagLayer:
  """Each step by itself: p(yₜ) = softmax(sₜ)."""

  def log_likelihood(params, scores, tags, lengths=None):
    live = padding_mask(scores, lengths)
    scores = jnp.where(live[..., None], scores.astype(accumulation_dtype(scores.dtype)), 0)
    p = jnp.take_along_axis(jax.nn.log_softmax(scores), tags[..., None], -1)[..., 0]
    return jnp.sum(p, 0, where=live)

  def marginals(params, scores, lengths=None):
    return jnp.where(padding_mask(scores, lengths)[..., None], jax.nn.softmax(scores), 0)

  def best(params, scores, lengths=None):
    return jnp.where(padding_mask(scores, lengths), jnp.argmax(scores, -1), 0)

  init = lambda key: {}
  return TagLayer(f"independent({num_tags})", num_tags, init, log_likelihood, marginals, best)


def linear_chain(num_tags: int, start=None, inner=None, end=None) -> TagLayer:
  """A linear-chain conditional random field.

  Args:
    number: K.
    start, inner, end: [K], [K, K], [K], true where a tag may begin a sequence, may follow another
      (inner[i, j]: j after i), may end it; None where all may. So BIO and IOBES stay legal.
  """
  allowed = {"start": start, "inner": inner, "end": end}
  allowed = {name: np.asarray(a, bool) for name, a in allowed.items() if a is not None}

  def init(key):
    return {
      "start": jnp.zeros(num_tags),
      "inner": jnp.zeros((num_tags,) * 2),
      "end": jnp.zeros(num_tags),
    }

  def constrained(params):
    return params | {
      name: jnp.where(a, params[name], FORBIDDEN_SCORE) for name, a in allowed.items()
    }

  def log_likelihood(params, scores, tags, lengths=None):
    params = constrained(params)
    return sequence_score(params, scores, tags, lengths) - log_partition(params, scores, lengths)

  def slope(params, scores, lengths, use_max):
    reached = lambda scores: log_partition(constrained(params), scores, lengths, use_max).sum()
    return jax.grad(reached)(scores)

  def marginals(params, scores, lengths=None):
    return slope(params, scores, lengths, False)

  def best(params, scores, lengths=None):
    return jnp.argmax(slope(params, scores, lengths, True), -1)

  return TagLayer(f"linear_chain({num_tags})", num_tags, init, log_likelihood, marginals, best)


def sequence_score(
  params: Params, scores: Array, tags: Array, lengths: Array | None = None
) -> Array:
  """s(y) of one sequence of tags [T, ...] in each row. [...]"""
  live, scores = padding_mask(scores, lengths), scores.astype(accumulation_dtype(scores.dtype))
  own = jnp.take_along_axis(scores, tags[..., None], -1)[..., 0]
  after = jnp.pad(live[1:], [(0, 1)] + [(0, 0)] * (live.ndim - 1))
  last = live & ~after
  following = jnp.concatenate([tags[1:], tags[:1]])  # of the last step, which has none, unused
  ahead = jnp.where(after, params["inner"][tags, following], 0)
  ends = jnp.where(last, params["end"][tags], 0)
  begins = jnp.where(live[:1], params["start"][tags[:1]], 0)
  return jnp.sum(jnp.where(live, own, 0) + ahead + ends, 0) + begins.sum(0)


def log_partition(
  params: Params, scores: Array, lengths: Array | None = None, use_max: bool = False
) -> Array:
  """log Z [...], or with `best` the highest s(y)."""
  if lengths is None:
    lengths = jnp.full(scores.shape[1:-1], scores.shape[0])
  scores = scores.astype(accumulation_dtype(scores.dtype))  # a sum over time
  scores = jnp.where(padding_mask(scores, lengths)[..., None], scores, 0)
  α = params["start"] + first_input(scores)
  (α,), _ = unroll(
    _crf_cell(scores.shape[-1], use_max), params, scores[1:], lengths - 1, carry=(α,)
  )
  reduce = _hard_max if use_max else jax.nn.logsumexp
  return jnp.where(lengths > 0, reduce(α + params["end"], -1), 0)


@cell_factory
def _crf_cell(features: int, use_max: bool):
  """α′[j] = s[j] + ⊕ᵢ α[i] + A[i, j]."""
  reduce = _hard_max if use_max else jax.nn.logsumexp

  def step(params, carry, u):
    (α,) = carry
    A = jnp.expand_dims(params["inner"], range(α.ndim - 1))
    α = u + reduce(α[..., :, None] + A, -2)
    return (α,), α

  start = lambda x: (zeros_like_batch(x, features),)
  return {"init": None, "initial_carry": start, "project": lambda params, x: x, "step": step}


def _hard_max(values, axis):
  """The maximum, whose gradient goes to one element even among equals: so a path is one path."""
  at = jnp.argmax(values, axis, keepdims=True)
  return jnp.take_along_axis(values, at, axis).squeeze(axis)
