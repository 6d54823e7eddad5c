"""Output layers of a language model: they map features to a distribution over the vocabulary."""

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
  """The output layer of a language model, as pure functions.

  Attributes:
    name: string that repr() returns, e.g. full(10000).
    vocab_size: number of words in the vocabulary, V.
    init: (key, D) -> params, a flat dict of arrays.
    loss: (params, hs [T, ..., D], labels [T, ...], weights [T, ...]) ->
      Σ weights · (−log p(label)), a scalar in nats.
    logits: (params, hs [..., D]) -> unnormalized log-probabilities [..., V].
  """

  name: str
  vocab_size: int
  init: Callable[[Key, int], Params]
  loss: Callable[[Params, Array, Array, Array], Array]
  logits: Callable[[Params, Array], Array]

  def __repr__(self):
    return self.name


def _uniform(key, shape, D):
  """Sample from U(−1/√D, 1/√D), where D is the number of input features."""
  return jax.random.uniform(key, shape, minval=-1, maxval=1) / math.sqrt(D)


@functools.cache
def full_softmax(vocab_size: int) -> OutputLayer:
  """Return a softmax layer with one row of W for each word.

      p(w) = softmax(h Wᵀ + b)_w

  Parameters: W [V, D] uniform in ±1/√D, b [V] zero. W has the shape of an embedding table, so W and
  the table can be tied: {"W": table, "b": b}.

  Args:
    vocab_size: number of words in the vocabulary, V.

  Raises:
    ValueError: vocab_size < 1.
  """
  if vocab_size < 1:
    raise ValueError(f"vocab_size must be a positive integer; got {vocab_size!r}")

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
  """Return an adaptive softmax layer (Grave et al. 2017).

  The head predicts frequent words directly. Rare words are in tail clusters: the head predicts the
  cluster, then the cluster's softmax predicts the word. Tail clusters use fewer features.

      p(w) = softmax(h Wᵀ + b)_w                                          if w < cutoffs[0]
      p(w) = softmax(h Wᵀ + b)_(cutoffs[0]+i) · softmax(h Pᵢ Wᵢᵀ + bᵢ)_w    if w is in tail i

  Word ids must be in order of descending frequency: 0 is the most frequent word. Tail i contains
  the words from cutoffs[i] up to the next cutoff. The softmax of tail i is over these words only.

  Parameters: the head has W [cutoffs[0] + number of tails, D] and b [cutoffs[0] + number of tails].
  Tail i with Vᵢ words has Pᵢ [D, Dᵢ], Wᵢ [Vᵢ, Dᵢ] and bᵢ [Vᵢ], where
  Dᵢ = max(1, D // div_value^(i+1)). Weights are uniform in ±1/√(input features), biases are zero.

  Args:
    vocab_size: number of words in the vocabulary, V.
    cutoffs: first word of each tail, strictly increasing, from 1 to V − 1.
    div_value: factor by which the number of features decreases from one cluster to the next.

  Raises:
    ValueError: cutoffs is empty, not strictly increasing or out of range, or div_value < 1.
  """
  edges = (*cutoffs, vocab_size)
  if not cutoffs or edges[0] < 1 or any(a >= b for a, b in itertools.pairwise(edges)):
    raise ValueError(
      f"cutoffs must be strictly increasing, at least 1 and less than vocab_size={vocab_size}; "
      f"got {cutoffs!r}"
    )
  if div_value < 1:
    raise ValueError(f"div_value must be at least 1; got {div_value!r}")
  head_size = cutoffs[0]
  tail_sizes = [b - a for a, b in itertools.pairwise(edges)]

  def init(key, D):
    keys = iter(jax.random.split(key, 1 + 2 * len(tail_sizes)))
    rows = head_size + len(tail_sizes)
    params = {"W": _uniform(next(keys), (rows, D), D), "b": jnp.zeros(rows)}
    for i, size in enumerate(tail_sizes):
      features = max(1, D // div_value ** (i + 1))
      params |= {
        f"P{i}": _uniform(next(keys), (D, features), D),
        f"W{i}": _uniform(next(keys), (size, features), features),
        f"b{i}": jnp.zeros(size),
      }
    return params

  @sum_over_steps
  def loss(params, hs, labels, weights):
    cluster = sum(labels >= edge for edge in cutoffs)  # 0 is the head, i + 1 is tail i
    head_labels = jnp.where(cluster > 0, head_size + cluster - 1, labels)
    total = linear_cross_entropy(params["W"], params["b"], hs, head_labels, weights)
    # Sorting by label makes the rows of a tail contiguous. `linear_cross_entropy` then skips the
    # rows of all other clusters.
    order = jnp.argsort(labels)
    for i, (begin, size) in enumerate(zip(cutoffs, tail_sizes)):
      tail_labels = jnp.clip(labels - begin, 0, size - 1)
      tail_weights = jnp.where(cluster == i + 1, weights, 0)
      projected = hs @ params[f"P{i}"].astype(hs.dtype)
      inputs = (a[order] for a in (projected, tail_labels, tail_weights))
      total += linear_cross_entropy(params[f"W{i}"], params[f"b{i}"], *inputs)
    return total

  def logits(params, hs):
    head = jax.nn.log_softmax(hs @ params["W"].T + params["b"])
    clusters = [head[..., :head_size]]
    for i in range(len(tail_sizes)):
      z = hs @ params[f"P{i}"] @ params[f"W{i}"].T + params[f"b{i}"]
      clusters.append(head[..., head_size + i, None] + jax.nn.log_softmax(z))
    return jnp.concatenate(clusters, -1)

  options = f", div_value={div_value}" if div_value != 4 else ""
  name = f"adaptive({vocab_size}, {cutoffs}{options})"
  return OutputLayer(name, vocab_size, init, loss, logits)
