"""Tokens as vectors: trainable, one-hot, given, or in their context."""

import flax.linen as nn
import jax
import numpy as np

from rnnjax.data.vocabulary import Vocabulary
from rnnjax.encoders import Encoder
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


class Context(nn.Module):
  """Words in their context, as a language model knows them: Peters et al. 2018.

      c = encoder(E[tokens]) P

  No gradient reaches E and the encoder: they stay what `rnnjax.pretrained` makes them. The map P,
  to the width of E, is learnt.

  Attributes:
    embedding: E [V, D].
    encoder: of the language model, in one direction or both.
  """

  embedding: nn.Embed
  encoder: Encoder

  @nn.compact
  def __call__(self, tokens: Array, lengths: Array) -> Array:
    """tokens [T, B], lengths [B] -> [T, B, D]."""
    xs = jax.lax.stop_gradient(self.embedding(tokens))
    params = self.param("encoder", self.encoder.init, xs.shape[-1])
    _, hs = self.encoder.apply(jax.lax.stop_gradient(params), xs, lengths)
    return nn.Dense(xs.shape[-1], use_bias=False, name="map")(hs)


def trainable(vocabulary: int, width: int) -> nn.Embed:
  """A table [V, D] that starts as N(0, 0.1²) and is learnt."""
  return nn.Embed(vocabulary, width, embedding_init=nn.initializers.normal(0.1))


def begun(vocabulary: Vocabulary, width: int, path: str = "") -> nn.Embed:
  """A trainable table, which starts as the vectors of a file where there is one."""
  return given(vectors.read(path, vocabulary)) if path else trainable(len(vocabulary), width)


def given(table: np.ndarray) -> nn.Embed:
  """A table [V, D] that starts as the vectors given and is learnt further."""
  return nn.Embed(*table.shape, embedding_init=lambda key, shape, dtype: table.astype(dtype))
