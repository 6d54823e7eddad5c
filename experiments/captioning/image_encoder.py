"""A convolutional image encoder. Its feature grid replaces the word embeddings of `Seq2Seq`."""

import flax.linen as nn
import jax.numpy as jnp

from rnnjax.encoders import Encoder
from rnnjax.types import Array


class ImageEncoder(nn.Module):
  """Convolutional encoder that maps images to feature grids for attention (Xu et al. 2015).

      x ← relu(norm(conv₃ₓ₃(x)));   x ← maxpool₂ₓ₂(x)          once for each of `channels`

  `ImageEncoder` replaces the source embedding table of `Seq2Seq`. Its input tokens are pixel rows.

  Attributes:
    channels: the output channels of each block. A block halves height and width.
  """

  channels: tuple[int, ...]

  @property
  def features(self) -> int:
    """The number of features D at each grid position."""
    return self.channels[-1]

  @nn.compact
  def __call__(self, pixel_rows: Array) -> Array:
    """Return the feature grids of a batch of images, flattened row by row.

    Args:
      pixel_rows: the images [height, B, width · 3] with values in [0, 255].

    Returns:
      The features [S, B, D] of S = height · width / 4^len(channels) grid positions.
    """
    height, B = pixel_rows.shape[:2]
    images = jnp.moveaxis(pixel_rows.reshape(height, B, -1, 3), 1, 0)
    x = images.astype(jnp.float32) / 127.5 - 1
    for channels in self.channels:
      x = nn.relu(nn.GroupNorm(num_groups=8)(nn.Conv(channels, (3, 3))(x)))
      x = nn.max_pool(x, (2, 2), (2, 2))
    return jnp.moveaxis(x, 0, 2).reshape(-1, B, self.features)


def identity_encoder(features: int) -> Encoder:
  """Return an encoder that outputs its inputs; the final hidden state is the mean of the inputs.

  A feature grid needs no recurrent encoder, because its positions have no sequential order.
  """

  def init(key, D):
    return {}

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    return jnp.mean(xs, 0), xs

  def final_hidden(carry):
    return carry

  return Encoder("identity_encoder()", features, init, apply, final_hidden)
