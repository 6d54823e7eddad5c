"""A convolutional image encoder, whose feature grid takes the place of word embeddings."""

import flax.linen as nn
import jax.numpy as jnp

from rnnjax.encoders import Encoder
from rnnjax.types import Array


class ImageEncoder(nn.Module):
  """Convolutional encoder from images to feature grids (Xu et al. 2015 attend to such a grid).

      x ← relu(norm(conv₃ₓ₃(x)));   x ← maxpool₂ₓ₂(x)          once for each of `channels`

  It replaces the source embedding table of `Seq2Seq`: an image is a sequence of pixel rows.

  Attributes:
    channels: output channels of each block; a block halves height and width.
  """

  channels: tuple[int, ...]

  @property
  def features(self) -> int:
    """D, the features of each grid position."""
    return self.channels[-1]

  @nn.compact
  def __call__(self, pixel_rows: Array) -> Array:
    """Return the feature grid, row by row.

    Args:
      pixel_rows: [height, B, width · 3] in [0, 255].

    Returns:
      [S, B, D] with S = height · width / 4^len(channels).
    """
    height, B = pixel_rows.shape[:2]
    images = jnp.moveaxis(pixel_rows.reshape(height, B, -1, 3), 1, 0)
    x = images.astype(jnp.float32) / 127.5 - 1
    for channels in self.channels:
      x = nn.relu(nn.GroupNorm(num_groups=8)(nn.Conv(channels, (3, 3))(x)))
      x = nn.max_pool(x, (2, 2), (2, 2))
    return jnp.moveaxis(x, 0, 2).reshape(-1, B, self.features)


def identity_encoder(features: int) -> Encoder:
  """Return an encoder that leaves its inputs unchanged; its final hidden state is their mean.

  The positions of a feature grid are not read in any order, so nothing recurrent is needed.
  """

  def init(key, D):
    return {}

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    return jnp.mean(xs, 0), xs

  def final_hidden(carry):
    return carry

  return Encoder("identity_encoder()", features, init, apply, final_hidden)
