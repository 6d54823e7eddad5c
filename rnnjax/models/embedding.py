"""Tokens as vectors: trainable, one-hot, or given."""

import flax.linen as nn
import jax
import numpy as np

from rnnjax.data.vocabulary import Vocabulary
from rnnjax.interop import vectors
from rnnjax.types import Array


class OneHot(nn.Module):
  """tokens [...] -> [..., V], a single 1 in each; nothing is learnt.

  Attributes:
    vocabulary: V. Memory grows with it: [T, B, V] numbers a batch.
  """

  vocabulary: int

  def __call__(self, tokens: Array) -> Array:
    return jax.nn.one_hot(tokens, self.vocabulary)


def trainable(vocabulary: int, width: int) -> nn.Embed:
  """A table [V, D] that starts as N(0, 0.1²) and is learnt."""
  return nn.Embed(vocabulary, width, embedding_init=nn.initializers.normal(0.1))


def begun(vocabulary: Vocabulary, width: int, path: str = "") -> nn.Embed:
  """A trainable table, which starts as the vectors of a file where there is one."""
  return given(vectors.read(path, vocabulary)) if path else trainable(len(vocabulary), width)


def given(table: np.ndarray) -> nn.Embed:
  """A table [V, D] that starts as the vectors given and is learnt further."""
  return nn.Embed(*table.shape, embedding_init=lambda key, shape, dtype: table.astype(dtype))
