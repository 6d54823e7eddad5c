"""Pooling over time: reduce the outputs of an encoder to one vector per sequence."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.masking import padding_mask
from rnnjax.types import Array, Key, Params


class Pooling(NamedTuple):
  """A pooling layer, as pure functions.

  Attributes:
    init: (key, H) -> params; params is {} if the layer has no parameters.
    apply: (params, final_hidden [..., H], ys [T, ..., H], lengths) -> pooled vector [..., H], or
      [..., 2H] for "max_mean".
  """

  init: Callable[[Key, int], Params]
  apply: Callable[[Params, Array, Array, Array | None], Array]


def mean_pooling(ys: Array, lengths: Array | None = None) -> Array:
  """Return the mean [..., H] of ys [T, ..., H] over the valid steps of each row; 0 for length 0."""
  mask = _feature_mask(ys, lengths)
  return jnp.sum(ys, 0, where=mask) / jnp.maximum(jnp.sum(mask, 0), 1).astype(ys.dtype)


def max_pooling(ys: Array, lengths: Array | None = None) -> Array:
  """Return the maximum [..., H] of ys [T, ..., H] over the valid steps; 0 for rows of length 0."""
  mask = _feature_mask(ys, lengths)
  maximum = jnp.max(ys, 0, where=mask, initial=-jnp.inf)
  return jnp.where(jnp.any(mask, 0), maximum, 0)


def max_mean_pooling(ys: Array, lengths: Array | None = None) -> Array:
  """Return the results of `max_pooling` and `mean_pooling`, concatenated to [..., 2H]."""
  return jnp.concatenate([max_pooling(ys, lengths), mean_pooling(ys, lengths)], -1)


def _feature_mask(ys, lengths):
  """Return the padding mask of ys [T, ..., H] with shape [T, ..., 1], which broadcasts to ys."""
  return padding_mask(ys, lengths, "ys")[..., None]


def init_attention_pooling(key: Key, features: int) -> Params:
  """Return {"W": W, "b": b, "u_w": u_w} with H = features.

  W [H, H] is Glorot uniform, b [H] is zero, and u_w [H] ~ N(0, 1/H).
  """
  W_key, u_key = jax.random.split(key)
  return {
    "W": jax.nn.initializers.glorot_uniform()(W_key, (features, features)),
    "b": jnp.zeros(features),
    "u_w": jax.random.normal(u_key, (features,)) * features**-0.5,
  }


def attention_pooling(
  params: Params, hs: Array, lengths: Array | None = None
) -> tuple[Array, Array]:
  """Return the attention-weighted mean of a sequence, and the attention weights.

      uₜ = tanh(hₜ W + b)
      αₜ = exp(uₜ · u_w) / Σₜ exp(uₜ · u_w)
      s = Σₜ αₜ hₜ

  Yang et al., Hierarchical Attention Networks for Document Classification, 2016.

  Args:
    params: {"W": [H, H], "b": [H], "u_w": [H]}.
    hs: the sequence [T, ..., H].
    lengths: valid steps of each row [...], integer; None if every row has T.

  Returns:
    The weighted mean s [..., H] and the attention weights α [T, ...]. Both are 0 for length 0.
  """
  u = jnp.tanh(hs @ params["W"] + params["b"])
  α = jax.nn.softmax(u @ params["u_w"], axis=0, where=padding_mask(hs, lengths))
  return jnp.einsum("t...,t...h->...h", α, hs), α


def _without_params(apply: Callable) -> Pooling:
  """Return a `Pooling` without parameters that calls `apply(final_hidden, ys, lengths)`."""
  return Pooling(lambda key, features: {}, lambda params, *args: apply(*args))


POOLINGS = {
  "last": _without_params(lambda final_hidden, ys, lengths: final_hidden),
  "mean": _without_params(lambda final_hidden, ys, lengths: mean_pooling(ys, lengths)),
  "max": _without_params(lambda final_hidden, ys, lengths: max_pooling(ys, lengths)),
  "max_mean": _without_params(lambda final_hidden, ys, lengths: max_mean_pooling(ys, lengths)),
  "attention": Pooling(
    init_attention_pooling,
    lambda params, final_hidden, ys, lengths: attention_pooling(params, ys, lengths)[0],
  ),
}
