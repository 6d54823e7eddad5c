"""The last layer of a language model: from features to a distribution over a vocabulary."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.chunked_cross_entropy import linear_cross_entropy, sum_over_steps
from rnnjax.types import Array, Key, Params


class OutputLayer(NamedTuple):
  """The last layer of a language model: features to a distribution over a vocabulary.

  Attributes:
    name: how it prints, e.g. full(10000).
    vocabulary: V, the number of words.
    init: key, D -> params, a flat dict of arrays.
    loss: params, hs [T, ..., D], labels [T, ...], weights [T, ...] -> Σ weights · (−log p(label)),
      a scalar in nats.
    logits: params, hs [..., D] -> [..., V], log p up to a constant.
  """

  name: str
  vocab_size: int
  init: Callable[[Key, int], Params]
  loss: Callable[[Params, Array, Array, Array], Array]
  logits: Callable[[Params, Array], Array]

  def __repr__(self):
    return self.name


def _uniform(key, shape, D):
  """±1/√D, for D features that enter."""
  return jax.random.uniform(key, shape, minval=-1, maxval=1) / math.sqrt(D)


@functools.cache
def full_softmax(vocab_size: int) -> OutputLayer:
  """Every word has its own row of W.

      p(w) = softmax(h Wᵀ + b)_w

  W is [V, D], so it may be tied to the table of an embedding: {"W": table, "b": b}.
  """
  if vocab_size < 1:
    raise ValueError(f"full needs a positive integer as its vocabulary; got {vocab_size!r}")

  def init(key, D):
    return {"W": _uniform(key, (vocab_size, D), D), "b": jnp.zeros(vocab_size)}

  def logits(params, hs):
    return hs @ params["W"].T + params["b"]

  @sum_over_steps
  def loss(params, hs, labels, weights):
    return linear_cross_entropy(params["W"], params["b"], hs, labels, weights)

  return OutputLayer(f"full({vocab_size})", vocab_size, init, loss, logits)


@functools.cache
def adaptive_softmax(vocab_size: int, cutoffs: tuple[int, ...], div_value: int = 4) -> OutputLayer:
  """Frequent words at once, rare words in two steps and of fewer features (Grave et al. 2017).

      p(w) = softmax(h Wᵀ + b)_w                                     where w < cutoffs[0]
      p(w) = softmax(h Wᵀ + b)_(cutoffs[0]+i) · softmax(h Pᵢ Wᵢᵀ + bᵢ)_w    where w is in tail i

  Words are numbered by falling frequency; tail i holds those from cutoffs[i] up to the next.
  """
  edges = (*cutoffs, vocab_size)
  if not cutoffs or edges[0] < 1 or any(a >= b for a, b in itertools.pairwise(edges)):
    raise ValueError(
      f"adaptive needs cutoffs that rise, from 1 to less than the vocabulary of {vocab_size}; "
      f"got {cutoffs!r}"
    )
  if div_value < 1:
    raise ValueError(f"adaptive needs a factor of at least 1; got {div_value!r}")
  first, sizes = cutoffs[0], [b - a for a, b in itertools.pairwise(edges)]

  def init(key, D):
    keys, rows = iter(jax.random.split(key, 1 + 2 * len(sizes))), first + len(sizes)
    params = {"W": _uniform(next(keys), (rows, D), D), "b": jnp.zeros(rows)}
    for i, size in enumerate(sizes):
      narrow = max(1, D // div_value ** (i + 1))
      params |= {
        f"P{i}": _uniform(next(keys), (D, narrow), D),
        f"W{i}": _uniform(next(keys), (size, narrow), narrow),
        f"b{i}": jnp.zeros(size),
      }
    return params

  @sum_over_steps
  def loss(params, hs, labels, weights):
    tail = sum(labels >= edge for edge in cutoffs)
    among = jnp.where(tail > 0, first + tail - 1, labels)
    total = linear_cross_entropy(params["W"], params["b"], hs, among, weights)
    order = jnp.argsort(labels)  # brings together the rows of a tail, and few chunks have any
    for i, (begin, size) in enumerate(zip(cutoffs, sizes)):
      within = jnp.clip(labels - begin, 0, size - 1)
      own = jnp.where(tail == i + 1, weights, 0)
      narrow = hs @ params[f"P{i}"].astype(hs.dtype)
      terms = (a[order] for a in (narrow, within, own))
      total += linear_cross_entropy(params[f"W{i}"], params[f"b{i}"], *terms)
    return total

  def logits(params, hs):
    head = jax.nn.log_softmax(hs @ params["W"].T + params["b"])
    parts = [head[..., :first]]
    for i in range(len(sizes)):
      z = hs @ params[f"P{i}"] @ params[f"W{i}"].T + params[f"b{i}"]
      parts.append(head[..., first + i, None] + jax.nn.log_softmax(z))
    return jnp.concatenate(parts, -1)

  name = f"adaptive({vocab_size}, {cutoffs}" + (f", factor={div_value})" if div_value != 4 else ")")
  return OutputLayer(name, vocab_size, init, loss, logits)
