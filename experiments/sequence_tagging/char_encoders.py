"""Words as vectors, made of their characters: so a word never seen has one, too."""

import flax.linen as nn
import jax.numpy as jnp

from rnnjax.data.vocabulary import PAD
from rnnjax.encoders import Encoder
from rnnjax.types import Array


class CharCnn(nn.Module):
  """The strongest response of each filter along a word: Ma & Hovy 2016.

      y = max_c (W * E[c] + b)

  Attributes:
    symbols: how many characters there are, padding among them.
    width: features of a character.
    features: filters.
    size: characters that a filter sees.
  """

  num_chars: int
  embed_dim: int
  features: int
  kernel_size: int = 3

  @nn.compact
  def __call__(self, characters: Array) -> Array:
    """characters [T, B, C], 0 beyond a word's end -> [T, B, features]; 0 for no characters."""
    live = (characters != PAD)[..., None]
    xs = jnp.where(live, _char_embedding(self)(characters), 0)
    ys = nn.Conv(self.features, (self.kernel_size,), name="filters")(xs)
    top = jnp.max(ys, -2, where=live, initial=-jnp.inf)
    return jnp.where(live.any(-2), top, 0)


class CharRnn(nn.Module):
  """The last outputs of an encoder that reads a word in both directions: Lample et al. 2016.

  Attributes:
    symbols, width: as for Convolution.
    encoder: the recurrent part.
  """

  num_chars: int
  embed_dim: int
  encoder: Encoder

  @nn.compact
  def __call__(self, characters: Array) -> Array:
    """characters [T, B, C], 0 beyond a word's end -> [T, B, features]; 0 for no characters."""
    # [C, B, T]: a word's characters are its time, and rows stay where devices look for them.
    xs = _char_embedding(self)(characters.transpose(2, 1, 0))
    lengths = jnp.sum(characters != PAD, -1).T
    carry, _ = self.encoder.apply(
      self.param("encoder", self.encoder.init, self.embed_dim), xs, lengths
    )
    return self.encoder.final_hidden(carry).swapaxes(0, 1)


def _char_embedding(module):
  initial = nn.initializers.normal(0.3)
  return nn.Embed(module.num_chars, module.embed_dim, embedding_init=initial, name="characters")
