"""The last layer of a language model: from features to a distribution over a vocabulary."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.chunked_cross_entropy import cross_entropy, summed
from rnnjax.types import Array, Key, Params


class Softmax(NamedTuple):
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
  vocabulary: int
  init: Callable[[Key, int], Params]
  loss: Callable[[Params, Array, Array, Array], Array]
  logits: Callable[[Params, Array], Array]

  def __repr__(self):
    return self.name


def _uniform(key, shape, D):
  """±1/√D, for D features that enter."""
  return jax.random.uniform(key, shape, minval=-1, maxval=1) / math.sqrt(D)


@functools.cache
def full(vocabulary: int) -> Softmax:
  """Every word has its own row of W.

      p(w) = softmax(h Wᵀ + b)_w

  W is [V, D], so it may be tied to the table of an embedding: {"W": table, "b": b}.
  """
  if vocabulary < 1:
    raise ValueError(f"full needs a positive integer as its vocabulary; got {vocabulary!r}")

  def init(key, D):
    return {"W": _uniform(key, (vocabulary, D), D), "b": jnp.zeros(vocabulary)}

  def logits(params, hs):
    return hs @ params["W"].T + params["b"]

  @summed
  def loss(params, rows, labels, weights):
    return cross_entropy(params["W"], params["b"], rows, labels, weights)

  return Softmax(f"full({vocabulary})", vocabulary, init, loss, logits)


@functools.cache
def adaptive(vocabulary: int, cutoffs: tuple[int, ...], factor: int = 4) -> Softmax:
  """Frequent words at once, rare words in two steps and of fewer features (Grave et al. 2017).

      p(w) = softmax(h Wᵀ + b)_w                                     where w < cutoffs[0]
      p(w) = softmax(h Wᵀ + b)_(cutoffs[0]+i) · softmax(h Pᵢ Wᵢᵀ + bᵢ)_w    where w is in tail i

  Words are numbered by falling frequency; tail i holds those from cutoffs[i] up to the next.
  """
  edges = (*cutoffs, vocabulary)
  if not cutoffs or edges[0] < 1 or any(a >= b for a, b in itertools.pairwise(edges)):
    raise ValueError(
      f"adaptive needs cutoffs that rise, from 1 to less than the vocabulary of {vocabulary}; "
      f"got {cutoffs!r}"
    )
  if factor < 1:
    raise ValueError(f"adaptive needs a factor of at least 1; got {factor!r}")
  first, sizes = cutoffs[0], [b - a for a, b in itertools.pairwise(edges)]

  def init(key, D):
    keys, rows = iter(jax.random.split(key, 1 + 2 * len(sizes))), first + len(sizes)
    params = {"W": _uniform(next(keys), (rows, D), D), "b": jnp.zeros(rows)}
    for i, size in enumerate(sizes):
      narrow = max(1, D // factor ** (i + 1))
      params |= {
        f"P{i}": _uniform(next(keys), (D, narrow), D),
        f"W{i}": _uniform(next(keys), (size, narrow), narrow),
        f"b{i}": jnp.zeros(size),
      }
    return params

  @summed
  def loss(params, rows, labels, weights):
    tail = sum(labels >= edge for edge in cutoffs)
    among = jnp.where(tail > 0, first + tail - 1, labels)
    total = cross_entropy(params["W"], params["b"], rows, among, weights)
    order = jnp.argsort(labels)  # brings together the rows of a tail, and few chunks have any
    for i, (begin, size) in enumerate(zip(cutoffs, sizes)):
      within = jnp.clip(labels - begin, 0, size - 1)
      own = jnp.where(tail == i + 1, weights, 0)
      narrow = rows @ params[f"P{i}"].astype(rows.dtype)
      terms = (a[order] for a in (narrow, within, own))
      total += cross_entropy(params[f"W{i}"], params[f"b{i}"], *terms)
    return total

  def logits(params, hs):
    head = jax.nn.log_softmax(hs @ params["W"].T + params["b"])
    parts = [head[..., :first]]
    for i in range(len(sizes)):
      z = hs @ params[f"P{i}"] @ params[f"W{i}"].T + params[f"b{i}"]
      parts.append(head[..., first + i, None] + jax.nn.log_softmax(z))
    return jnp.concatenate(parts, -1)

  name = f"adaptive({vocabulary}, {cutoffs}" + (f", factor={factor})" if factor != 4 else ")")
  return Softmax(name, vocabulary, init, loss, logits)
