"""Dropout for sequences, as functions: what is dropped, and for how long it stays dropped.

Each keeps the expectation: what survives is scaled by 1/(1 − rate).
"""

import zlib

import jax
import jax.numpy as jnp

from rnnjax.types import Array, Key, Params


def dropout(xs: Array, rate: float, key: Key | None, axes: tuple[int, ...] = ()) -> Array:
  """Zeroes each element with probability rate; one draw serves all positions of `axes`.

  Srivastava et al. 2014. Without a key, at evaluation, xs passes unchanged.

  Raises:
    ValueError: a rate outside [0, 1).
  """
  if not 0 <= rate < 1:
    raise ValueError(f"a rate of dropout must lie in [0, 1); got {rate}")
  if key is None or rate == 0:
    return xs
  shape = [1 if axis in axes else n for axis, n in enumerate(xs.shape)]
  return jnp.where(jax.random.bernoulli(key, 1 - rate, shape), xs / (1 - rate), 0)


def variational_dropout(xs: Array, rate: float, key: Key | None) -> Array:
  """The same features of xs [T, B, D] are dropped at every step: Gal & Ghahramani 2016."""
  return dropout(xs, rate, key, axes=(0,))


def word_dropout(xs: Array, rate: float, key: Key | None) -> Array:
  """Whole vectors of xs [T, B, D] are dropped, each step by itself: Iyyer et al. 2015."""
  return dropout(xs, rate, key, axes=(xs.ndim - 1,))


def word_type_dropout(
  xs: Array, tokens: Array, vocab_size: int, rate: float, key: Key | None
) -> Array:
  """Some of V words vanish wherever they stand in tokens [T, B]: Gal & Ghahramani 2016.

  The same as dropping rows of the embedding table; xs [T, B, D] is what it gave for the tokens.
  """
  if key is None or rate == 0:
    return xs
  return xs * dropout(jnp.ones(vocab_size, xs.dtype), rate, key)[tokens][..., None]


def dropconnect(params: Params, rate: float, key: Key | None, param_name: str = "U") -> Params:
  """Elements of every matrix of that name vanish, for all steps: Wan et al. 2013 (DropConnect).

  On U it is the weight drop of Merity, McCann & Socher 2017.
  """
  if key is None or rate == 0:
    return params

  def drop(path, leaf):
    where = zlib.crc32(jax.tree_util.keystr(path).encode())  # a draw of its own for each
    return (
      dropout(leaf, rate, jax.random.fold_in(key, where)) if path[-1].key == param_name else leaf
    )

  return jax.tree_util.tree_map_with_path(drop, params)
