"""Dropout for sequences, as functions: what is dropped, and for how long it stays dropped.

Each keeps the expectation: what survives is scaled by 1/(1 − rate).
"""

import jax
import jax.numpy as jnp

from rnnjax.types import Array, Key


def dropout(xs: Array, rate: float, key: Key | None, axes: tuple[int, ...] = ()) -> Array:
  """Zeroes each element with probability rate; one draw serves all positions of `axes`.

  Srivastava et al. 2014. Without a key, at evaluation, xs passes unchanged.
  """
  if key is None or rate == 0:
    return xs
  shape = [1 if axis in axes else n for axis, n in enumerate(xs.shape)]
  return jnp.where(jax.random.bernoulli(key, 1 - rate, shape), xs / (1 - rate), 0)


def locked(xs: Array, rate: float, key: Key | None) -> Array:
  """The same features of xs [T, B, D] are dropped at every step: Gal & Ghahramani 2016."""
  return dropout(xs, rate, key, axes=(0,))


def words(xs: Array, rate: float, key: Key | None) -> Array:
  """Whole vectors of xs [T, B, D] are dropped, each step by itself: Iyyer et al. 2015."""
  return dropout(xs, rate, key, axes=(xs.ndim - 1,))
