"""Character-level word encoders, which also produce vectors for unknown words."""

import flax.linen as nn
import jax.numpy as jnp

from rnnjax.data.vocabulary import PAD
from rnnjax.encoders import Encoder
from rnnjax.types import Array


class CharCnn(nn.Module):
  """A convolution over the characters of a word, with max pooling (Ma & Hovy 2016).

      y = max_c (W * E[c] + b)

  c is a character, E the embedding table, and * a convolution over the characters.

  Attributes:
    num_chars: size of the character vocabulary, including padding.
    embed_dim: embedding size of a character.
    features: number of filters.
    kernel_size: width of the filters in characters.
  """

  num_chars: int
  embed_dim: int
  features: int
  kernel_size: int = 3

  @nn.compact
  def __call__(self, characters: Array) -> Array:
    """Encode words.

    Args:
      characters: character ids [T, B, C], C characters per word, padded with 0.

    Returns:
      Word vectors [T, B, features]; 0 for a word without characters.
    """
    mask = (characters != PAD)[..., None]
    xs = jnp.where(mask, _char_embedding(self)(characters), 0)
    ys = nn.Conv(self.features, (self.kernel_size,), name="filters")(xs)
    pooled = jnp.max(ys, -2, where=mask, initial=-jnp.inf)
    return jnp.where(mask.any(-2), pooled, 0)


class CharRnn(nn.Module):
  """A bidirectional recurrent encoder over the characters of a word (Lample et al. 2016).

  The vector of a word is the final hidden state of the encoder.

  Attributes:
    num_chars: size of the character vocabulary, including padding.
    embed_dim: embedding size of a character.
    encoder: the recurrent encoder.
  """

  num_chars: int
  embed_dim: int
  encoder: Encoder

  @nn.compact
  def __call__(self, characters: Array) -> Array:
    """Encode words.

    Args:
      characters: character ids [T, B, C], C characters per word, padded with 0.

    Returns:
      Word vectors [T, B, features]; 0 for a word without characters.
    """
    # The encoder gets [C, B, T], so the character axis C is its time axis. B stays axis 1, because
    # batches are sharded over axis 1.
    xs = _char_embedding(self)(characters.transpose(2, 1, 0))
    lengths = jnp.sum(characters != PAD, -1).T
    params = self.param("encoder", self.encoder.init, self.embed_dim)
    carry, _ = self.encoder.apply(params, xs, lengths)
    return self.encoder.final_hidden(carry).swapaxes(0, 1)


def _char_embedding(module):
  initializer = nn.initializers.normal(0.3)
  return nn.Embed(module.num_chars, module.embed_dim, embedding_init=initializer, name="characters")
