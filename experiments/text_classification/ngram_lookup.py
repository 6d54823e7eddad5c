"""N-gram features stored in arrays, for lookup in a jitted function."""

import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from experiments.text_classification.ngram_features import NgramFeatures
from rnnjax.masking import padding_mask
from rnnjax.types import Array, InvalidInputError


class NgramTrie(NamedTuple):
  """A trie of n-grams, stored in sorted arrays.

  The parent of an n-gram is the (n − 1)-gram of its first n − 1 words. Siblings are sorted by their
  last word.

  Attributes (tuples with one array for each order n):
    offsets: [P + 2], the index of the first child of each of the P (n − 1)-grams. Entry P is for
      the unknown (n − 1)-gram, which has no children.
    last_words: [G + 1], the last word of each of the G n-grams; the last entry is −1.
    ratios: `NgramFeatures.ratios` [G + 1, K]; the last row, for the unknown n-gram, is 0.
  """

  offsets: tuple[Array, ...]
  last_words: tuple[Array, ...]
  ratios: tuple[Array, ...]

  @classmethod
  def from_features(cls, ngram_features: NgramFeatures) -> "NgramTrie":
    """Build the trie from the n-grams that `NgramFeatures` counted.

    Every n-gram has a parent, because its first n − 1 words occur at least as often as the n-gram.
    """
    offsets, last_words, parent_keys = [], [], np.zeros(1, np.int64)
    for ngrams in ngram_features.ngrams:
      prefix, word = np.divmod(ngrams, ngram_features.base)
      parent = np.searchsorted(parent_keys, prefix)
      starts = np.searchsorted(parent, np.arange(len(parent_keys) + 2))
      offsets.append(starts.astype(np.int32))
      last_words.append(np.append(word, -1).astype(np.int32))
      parent_keys = ngrams
    return cls(tuple(offsets), tuple(last_words), tuple(ngram_features.ratios))

  def save(self, path: pathlib.Path):
    """Write the arrays to a safetensors file."""
    arrays = {
      f"{name}_{n}": array
      for name, arrays_by_order in self._asdict().items()
      for n, array in enumerate(arrays_by_order)
    }
    path.write_bytes(safetensors.numpy.save(arrays))

  @classmethod
  def load(cls, path: pathlib.Path) -> "NgramTrie":
    """Read a file that `save` wrote.

    Raises:
      InvalidInputError: the file does not exist or is damaged.
    """
    try:
      arrays = safetensors.numpy.load_file(path)
      orders = range(len(arrays) // len(cls._fields))
      return cls(*(tuple(arrays[f"{name}_{n}"] for n in orders) for name in cls._fields))
    except (OSError, KeyError, safetensors.SafetensorError) as error:
      raise InvalidInputError(
        f"{path} cannot be read as n-gram features. Has the run finished? ({error})"
      ) from None

  def __call__(self, tokens: Array, lengths: Array) -> Array:
    """Return the n-gram features of a batch, as `NgramFeatures.__call__` defines them.

    Args:
      tokens: token ids [T, B].
      lengths: the length of each text [B].

    Returns:
      The features [T, B, max_order · K]; 0 at padded steps.
    """
    columns = []
    parent = jnp.zeros_like(tokens)  # the empty 0-gram
    for offsets, last_words, ratios in zip(*self):
      offsets, last_words = jnp.asarray(offsets), jnp.asarray(last_words)
      end = offsets[parent + 1]
      index = _lower_bound(last_words, offsets[parent], end, tokens)
      unknown = len(last_words) - 1
      index = jnp.where((index < end) & (last_words[index] == tokens), index, unknown)
      columns.append(jnp.asarray(ratios)[index])
      # The (n + 1)-gram that ends at step t is a child of the n-gram that ends at step t − 1.
      parent = jnp.concatenate([jnp.full_like(index[:1], unknown), index[:-1]])
    features = jnp.concatenate(columns, -1)
    return jnp.where(padding_mask(features, lengths)[..., None], features, 0)


def _lower_bound(values: Array, low: Array, high: Array, query: Array) -> Array:
  """Return the first index in [low, high) with values[index] ≥ query; else high."""
  for _ in range(len(values).bit_length()):  # jit requires a fixed number of steps
    middle = (low + high) // 2
    below = values[middle] < query
    low, high = (jnp.where(below & (low < high), middle + 1, low), jnp.where(below, high, middle))
  return low
