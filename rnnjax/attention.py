"""Attention: which steps of a sequence matter, as weights that sum to one."""

import jax
import jax.numpy as jnp

from rnnjax.lengths import alive
from rnnjax.types import Array, Key, Params


def init_words(key: Key, features: int) -> Params:
  """W [H, H] Glorot uniform, b [H] zero, u_w [H] ~ N(0, 1/H)."""
  keys = jax.random.split(key)
  return {
    "W": jax.nn.initializers.glorot_uniform()(keys[0], (features, features)),
    "b": jnp.zeros(features),
    "u_w": jax.random.normal(keys[1], (features,)) * features**-0.5,
  }


def words(params: Params, hs: Array, lengths: Array | None = None) -> tuple[Array, Array]:
  """Attention over the words of a text: Yang et al., Hierarchical Attention Networks, 2016.

      uₜ = tanh(hₜ W + b)
      αₜ = exp(uₜ · u_w) / Σₜ exp(uₜ · u_w)
      s = Σₜ αₜ hₜ

  Args:
    params: {"W": [H, H], "b": [H], "u_w": [H]}.
    hs: [T, ..., H].
    lengths: [...]; None where all rows have T steps.

  Returns:
    s [..., H] and α [T, ...]; both 0 for a row of length 0.
  """
  u = jnp.tanh(hs @ params["W"] + params["b"])
  α = jax.nn.softmax(u @ params["u_w"], axis=0, where=alive(hs, lengths))
  return jnp.einsum("t...,t...h->...h", α, hs), α
