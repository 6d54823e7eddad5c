"""Poolings: the outputs of an encoder to one vector (many to one)."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from rnnjax import attention
from rnnjax.masking import padding_mask
from rnnjax.types import Array, Key, Params


class Pooling(NamedTuple):
  """A sequence to a vector.

  Attributes:
    init: key, features -> params.
    apply: params, last [..., H], ys [T, ..., H], lengths -> s [..., nH].
  """

  init: Callable[[Key, int], Params]
  apply: Callable[[Params, Array, Array, Array | None], Array]


def mean_pooling(ys: Array, lengths: Array | None = None) -> Array:
  """s = Σₜ yₜ / length over the living steps of ys [T, ..., H]; 0 for length 0."""
  mask = _mask(ys, lengths)
  return jnp.sum(ys, 0, where=mask) / jnp.maximum(jnp.sum(mask, 0), 1).astype(ys.dtype)


def max_pooling(ys: Array, lengths: Array | None = None) -> Array:
  """s = maxₜ yₜ over the living steps of ys [T, ..., H]; 0 for length 0."""
  mask = _mask(ys, lengths)
  top = jnp.max(ys, 0, where=mask, initial=-jnp.inf)
  return jnp.where(jnp.any(mask, 0), top, 0)


def _mask(ys, lengths):
  return padding_mask(ys, lengths, "ys")[..., None]


def _without_params(apply) -> Pooling:
  return Pooling(lambda key, features: {}, lambda params, *args: apply(*args))


POOLINGS = {
  "last": _without_params(lambda last, ys, lengths: last),
  "mean": _without_params(lambda last, ys, lengths: mean_pooling(ys, lengths)),
  "max": _without_params(lambda last, ys, lengths: max_pooling(ys, lengths)),
  "max_mean": _without_params(
    lambda last, ys, lengths: jnp.concatenate(
      [max_pooling(ys, lengths), mean_pooling(ys, lengths)], -1
    )
  ),
  "attention": Pooling(
    attention.init_attention_pooling,
    lambda params, last, ys, lengths: attention.attention_pooling(params, ys, lengths)[0],
  ),
}
