"""N-gram features as arrays that a jitted program can look up."""

import pathlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from experiments.text_classification.ngram_features import NgramFeatures
from rnnjax.masking import padding_mask
from rnnjax.types import Array, InvalidInputError


class NgramTrie(NamedTuple):
  """A trie of n-grams in sorted arrays.

  An n-gram is a child of its first n − 1 words; siblings are sorted by their last word.

  Attributes (tuples with one array for each order n):
    offsets: [P + 2], the first child of each of the P (n − 1)-grams. Entry P belongs to the unknown
      (n − 1)-gram, which has no children.
    last_words: [G + 1], the last word of each n-gram, sorted within siblings; then −1.
    ratios: [G + 1, K], as `NgramFeatures.ratios`; the last row, of the unknown n-gram, is 0.
  """

  offsets: tuple[Array, ...]
  last_words: tuple[Array, ...]
  ratios: tuple[Array, ...]

  @classmethod
  def from_features(cls, ngram_features: NgramFeatures) -> "NgramTrie":
    """Build the trie of counted n-grams.

    Every n-gram has a parent: its first n − 1 words occur at least as often as it does.
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
    """Return the features of a batch, equal to those of `NgramFeatures`.

    Args:
      tokens: token ids [T, B].
      lengths: [B].

    Returns:
      [T, B, max_order · K], 0 in the padding.
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
  """Return the first index in [low, high) of sorted values with value ≥ query; high if none is."""
  for _ in range(len(values).bit_length()):  # a fixed number of steps, as jit requires
    middle = (low + high) // 2
    below = values[middle] < query
    low, high = (jnp.where(below & (low < high), middle + 1, low), jnp.where(below, high, middle))
  return low
