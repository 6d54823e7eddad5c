"""Dropout for sequences: drop elements, features, words, word types or weights.

All functions preserve the expectation: the remaining elements are scaled by 1/(1 − rate). If key is
None, i.e. at evaluation, the input is returned unchanged.
"""

import zlib

import jax
import jax.numpy as jnp

from rnnjax.types import Array, Key, Params


def dropout(xs: Array, rate: float, key: Key | None, axes: tuple[int, ...] = ()) -> Array:
  """Set each element to 0 with probability `rate` (Srivastava et al. 2014).

  Args:
    xs: any array.
    rate: dropout rate.
    key: PRNG key; None to return xs.
    axes: axes of xs that share one dropout mask.

  Raises:
    ValueError: the rate is outside [0, 1).
  """
  if not 0 <= rate < 1:
    raise ValueError(f"the dropout rate must lie in [0, 1); got {rate}")
  if key is None or rate == 0:
    return xs
  mask_shape = [1 if axis in axes else size for axis, size in enumerate(xs.shape)]
  return jnp.where(jax.random.bernoulli(key, 1 - rate, mask_shape), xs / (1 - rate), 0)


def variational_dropout(xs: Array, rate: float, key: Key | None) -> Array:
  """Drop features of xs [T, B, D] with one mask for all steps (Gal & Ghahramani 2016)."""
  return dropout(xs, rate, key, axes=(0,))


def word_dropout(xs: Array, rate: float, key: Key | None) -> Array:
  """Set each vector xs[t, b] of xs [T, B, D] to 0 with probability `rate` (Iyyer et al. 2015)."""
  return dropout(xs, rate, key, axes=(xs.ndim - 1,))


def word_type_dropout(
  xs: Array, tokens: Array, vocab_size: int, rate: float, key: Key | None
) -> Array:
  """Drop words of the vocabulary at all positions where they occur (Gal & Ghahramani 2016).

  This is the same as dropping rows of the embedding table.

  Args:
    xs: embeddings [T, B, D] of the tokens.
    tokens: token ids [T, B].
    vocab_size: number of words in the vocabulary, V.
    rate: dropout rate.
    key: PRNG key; None to return xs.
  """
  if key is None or rate == 0:
    return xs
  return xs * dropout(jnp.ones(vocab_size, xs.dtype), rate, key)[tokens][..., None]


def dropconnect(params: Params, rate: float, key: Key | None, param_name: str = "U") -> Params:
  """Drop elements of all parameters named `param_name` (DropConnect, Wan et al. 2013).

  All time steps use the same dropped parameters. The default "U", the recurrent matrices, gives the
  weight drop of Merity, McCann & Socher 2017.
  """
  if key is None or rate == 0:
    return params

  def drop(path, leaf):
    if path[-1].key != param_name:
      return leaf
    # Each matrix gets its own mask, which does not depend on the other parameters.
    path_hash = zlib.crc32(jax.tree_util.keystr(path).encode())
    return dropout(leaf, rate, jax.random.fold_in(key, path_hash))

  return jax.tree_util.tree_map_with_path(drop, params)
