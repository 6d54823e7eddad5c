"""Output layers of a tagger: they map tag scores to a distribution over tag sequences.

A linear-chain conditional random field (CRF; Lafferty, McCallum & Pereira 2001) computes the score
of a tag sequence y from its tags and from pairs of neighboring tags:

    s(y) = a[y₁] + Σₜ sₜ[yₜ] + Σₜ A[yₜ₋₁, yₜ] + e[y_T],    p(y) = exp s(y) / Z

A recurrence sums over all K^T tag sequences. It is implemented as a cell and run by `unroll`:

    αₜ[j] = sₜ[j] + ⊕ᵢ (αₜ₋₁[i] + A[i, j])

With ⊕ = log Σ exp the recurrence is the forward algorithm and computes log Z. With ⊕ = max it is
the Viterbi algorithm. Autodiff computes the backward pass: ∂ log Z / ∂sₜ[k] is the marginal
p(yₜ = k), and ∂ max s(y) / ∂sₜ is the best tag at step t, one-hot (Eisner 2016; Mensch & Blondel
2018).
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

FORBIDDEN_SCORE = -1e9  # the score of a forbidden transition; finite, because −∞ − (−∞) is NaN


class TagLayer(NamedTuple):
  """The output layer of a tagger with K tags.

  Padded steps have marginals 0 and tag 0. A row of length 0 has log p = 0.

  Attributes:
    name: string that repr() returns, e.g. linear_chain(9).
    num_tags: number of tags, K.
    init: key -> params.
    log_likelihood: (params, scores [T, ..., K], tags [T, ...], lengths [...]) -> log p(tags) [...].
    marginals: (params, scores, lengths) -> marginal probabilities p(yₜ = k) [T, ..., K].
    best_tags: (params, scores, lengths) -> the most likely tags [T, ...].
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
  """Return a tag layer without transition scores: p(yₜ) = softmax(sₜ) at each step.

  Args:
    num_tags: number of tags, K.
  """

  def log_likelihood(params, scores, tags, lengths=None):
    mask = padding_mask(scores, lengths)
    scores = jnp.where(mask[..., None], scores.astype(accumulation_dtype(scores.dtype)), 0)
    p = jnp.take_along_axis(jax.nn.log_softmax(scores), tags[..., None], -1)[..., 0]
    return jnp.sum(p, 0, where=mask)

  def marginals(params, scores, lengths=None):
    return jnp.where(padding_mask(scores, lengths)[..., None], jax.nn.softmax(scores), 0)

  def best_tags(params, scores, lengths=None):
    return jnp.where(padding_mask(scores, lengths), jnp.argmax(scores, -1), 0)

  def init(key):
    return {}

  name = f"independent({num_tags})"
  return TagLayer(name, num_tags, init, log_likelihood, marginals, best_tags)


def linear_chain(num_tags: int, start=None, inner=None, end=None) -> TagLayer:
  """Return a linear-chain conditional random field.

  The boolean arguments restrict the tag sequences to valid sequences, e.g. of the BIO or IOBES
  scheme. None means no restriction.

  Args:
    num_tags: number of tags, K.
    start: boolean array [K]; start[i] is True if tag i may be the first tag.
    inner: boolean array [K, K]; inner[i, j] is True if tag j may follow tag i.
    end: boolean array [K]; end[i] is True if tag i may be the last tag.
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

  def partition_gradient(params, scores, lengths, use_max):
    """Return the gradient of log_partition with respect to the scores."""

    def total(scores):
      return log_partition(constrained(params), scores, lengths, use_max).sum()

    return jax.grad(total)(scores)

  def marginals(params, scores, lengths=None):
    return partition_gradient(params, scores, lengths, False)

  def best_tags(params, scores, lengths=None):
    return jnp.argmax(partition_gradient(params, scores, lengths, True), -1)

  name = f"linear_chain({num_tags})"
  return TagLayer(name, num_tags, init, log_likelihood, marginals, best_tags)


def sequence_score(
  params: Params, scores: Array, tags: Array, lengths: Array | None = None
) -> Array:
  """Return the score s(y) [...] of one tag sequence y for each row.

  Args:
    params: {"start": a [K], "inner": A [K, K], "end": e [K]}.
    scores: tag scores s [T, ..., K].
    tags: tag sequences y [T, ...], integer.
    lengths: valid steps of each row [...]; None if every row has T.
  """
  mask = padding_mask(scores, lengths)
  scores = scores.astype(accumulation_dtype(scores.dtype))
  tag_scores = jnp.take_along_axis(scores, tags[..., None], -1)[..., 0]
  has_next = jnp.pad(mask[1:], [(0, 1)] + [(0, 0)] * (mask.ndim - 1))
  is_last = mask & ~has_next
  # The last step has no next tag. tags[:1] is only a placeholder there, and `has_next` masks it.
  next_tags = jnp.concatenate([tags[1:], tags[:1]])
  transitions = jnp.where(has_next, params["inner"][tags, next_tags], 0)
  ends = jnp.where(is_last, params["end"][tags], 0)
  starts = jnp.where(mask[:1], params["start"][tags[:1]], 0)
  return jnp.sum(jnp.where(mask, tag_scores, 0) + transitions + ends, 0) + starts.sum(0)


def log_partition(
  params: Params, scores: Array, lengths: Array | None = None, use_max: bool = False
) -> Array:
  """Return log Z [...] of each row, or the highest score max s(y) [...] if `use_max` is set.

  Args:
    params: as for `sequence_score`.
    scores: tag scores s [T, ..., K].
    lengths: valid steps of each row [...]; None if every row has T. The result for length 0 is 0.
    use_max: whether to use max instead of log Σ exp for ⊕ in the recurrence.
  """
  if lengths is None:
    lengths = jnp.full(scores.shape[1:-1], scores.shape[0])
  scores = scores.astype(accumulation_dtype(scores.dtype))  # because they are summed over time
  scores = jnp.where(padding_mask(scores, lengths)[..., None], scores, 0)
  α = params["start"] + first_input(scores)
  (α,), _ = unroll(
    _crf_cell(scores.shape[-1], use_max), params, scores[1:], lengths - 1, carry=(α,)
  )
  reduce = _hard_max if use_max else jax.nn.logsumexp
  return jnp.where(lengths > 0, reduce(α + params["end"], -1), 0)


@cell_factory
def _crf_cell(features: int, use_max: bool):
  """Build the cell of the CRF recurrence, αₜ[j] = sₜ[j] + ⊕ᵢ (αₜ₋₁[i] + A[i, j]).

  The operator ⊕ is max if `use_max` is set, otherwise log Σ exp.
  """
  reduce = _hard_max if use_max else jax.nn.logsumexp

  def step(params, carry, u):
    (α,) = carry
    A = jnp.expand_dims(params["inner"], range(α.ndim - 1))
    α = u + reduce(α[..., :, None] + A, -2)
    return (α,), α

  def initial_carry(x):
    return (zeros_like_batch(x, features),)

  def project(params, x):
    return x

  return {"init": None, "initial_carry": initial_carry, "project": project, "step": step}


def _hard_max(values, axis):
  """Return the maximum of `values` along an axis, with a one-hot gradient even if there are ties.

  jnp.max divides the gradient among equal elements, so the best path would not be one-hot.
  """
  index = jnp.argmax(values, axis, keepdims=True)
  return jnp.take_along_axis(values, index, axis).squeeze(axis)
