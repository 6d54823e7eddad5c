"""The evidence of n-grams as arrays, which a program looks up as it runs."""

import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from experiments.text_classification.ngram_features import NgramFeatures
from rnnjax.masking import padding_mask
from rnnjax.types import Array, InvalidInputError


class NgramTrie(NamedTuple):
  """Each n-gram stands below what it begins with, among others by its last word.

  Attributes, one array for each order n:
    begin: [P + 2], where the n-grams begin that go on from the p-th (n − 1)-gram; the last is the
      unknown one, which none goes on from.
    last: [G + 1], their last words, rising below each p; and −1.
    ratios: [G + 1, K], as of Evidence; those of the unknown one, the last, are 0.
  """

  offsets: tuple[Array, ...]
  last_words: tuple[Array, ...]
  ratios: tuple[Array, ...]

  @classmethod
  def from_features(cls, ngram_features: NgramFeatures) -> "NgramTrie":
    """The tree of what was counted. That all but its last word occurs as often as an n-gram is what
    makes it one."""
    begin, last, above = [], [], np.zeros(1, np.int64)
    for grams in ngram_features.ngrams:
      parent, word = np.divmod(grams, ngram_features.base)
      parent = np.searchsorted(above, parent)
      begin.append(np.searchsorted(parent, np.arange(len(above) + 2)).astype(np.int32))
      last.append(np.append(word, -1).astype(np.int32))
      above = grams
    return cls(tuple(begin), tuple(last), tuple(ngram_features.ratios))

  def save(self, path: pathlib.Path):
    """Writes the arrays."""
    arrays = {f"{name}_{n}": a for name, own in self._asdict().items() for n, a in enumerate(own)}
    path.write_bytes(safetensors.numpy.save(arrays))

  @classmethod
  def load(cls, path: pathlib.Path) -> "NgramTrie":
    """From what `save` wrote.

    Raises:
      BadInput: there is no such file, or it is damaged.
    """
    try:
      arrays = safetensors.numpy.load_file(path)
      orders = range(len(arrays) // len(cls._fields))
      return cls(*(tuple(arrays[f"{name}_{n}"] for n in orders) for name in cls._fields))
    except (OSError, KeyError, safetensors.SafetensorError) as error:
      raise InvalidInputError(
        f"{path} holds no evidence of n-grams; has the run ended? ({error})"
      ) from None

  def __call__(self, tokens: Array, lengths: Array) -> Array:
    """What Evidence says of tokens [T, B]: [T, B, orders · K], 0 past a row's length [B]."""
    found = []
    p = jnp.zeros_like(tokens)
    for begin, last, ratios in zip(*self):
      end = jnp.asarray(begin)[p + 1]
      at = _lower_bound(jnp.asarray(last), jnp.asarray(begin)[p], end, tokens)
      unknown = len(last) - 1
      at = jnp.where((at < end) & (jnp.asarray(last)[at] == tokens), at, unknown)
      found.append(jnp.asarray(ratios)[at])
      p = jnp.concatenate([jnp.full_like(at[:1], unknown), at[:-1]])  # the word before
    features = jnp.concatenate(found, -1)
    return jnp.where(padding_mask(features, lengths)[..., None], features, 0)


def _lower_bound(values: Array, low: Array, high: Array, query: Array) -> Array:
  """The first place from low to high, of values that rise, whose value is not below `wanted`."""
  for _ in range(len(values).bit_length()):
    middle = (low + high) // 2
    below = values[middle] < query
    low, high = (jnp.where(below & (low < high), middle + 1, low), jnp.where(below, high, middle))
  return low
