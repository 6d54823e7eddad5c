"""A convolutional image encoder. Its feature grid replaces the word embeddings of `Seq2Seq`."""

import flax.linen as nn
import jax.numpy as jnp

from rnnjax.encoders import Encoder
from rnnjax.types import Array


class ImageEncoder(nn.Module):
  """Convolutional encoder that maps images to feature grids for attention (Xu et al. 2015).

      x ← maxpool₂ₓ₂(relu(norm(conv₃ₓ₃(x))))          one block for each entry of `channels`

  `ImageEncoder` replaces the source embedding table of `Seq2Seq`. Its inputs are pixel rows instead
  of tokens.

  Attributes:
    channels: the number of output channels of each block. Each block halves the height and width.
  """

  channels: tuple[int, ...]

  @property
  def features(self) -> int:
    """The number of features D at each grid position."""
    return self.channels[-1]

  @nn.compact
  def __call__(self, pixel_rows: Array) -> Array:
    """Return the feature grids of a batch of images, each grid flattened in row-major order.

    Args:
      pixel_rows: the images [height, B, width · 3] with values in [0, 255].

    Returns:
      The features [S, B, D] at the S = height · width / 4^len(channels) grid positions.
    """
    height, B = pixel_rows.shape[:2]
    images = jnp.moveaxis(pixel_rows.reshape(height, B, -1, 3), 1, 0)
    x = images.astype(jnp.float32) / 127.5 - 1
    for channels in self.channels:
      x = nn.relu(nn.GroupNorm(num_groups=8)(nn.Conv(channels, (3, 3))(x)))
      x = nn.max_pool(x, (2, 2), (2, 2))
    return jnp.moveaxis(x, 0, 2).reshape(-1, B, self.features)


def identity_encoder(features: int) -> Encoder:
  """Return an encoder that outputs its inputs, with their mean as the final hidden state.

  The positions of a feature grid have no sequential order and need no recurrent encoder.

  Args:
    features: the number of features D of the inputs.
  """

  def init(key, D):
    return {}

  def apply(params, xs, lengths=None, *, carry=None, key=None):
    return jnp.mean(xs, 0), xs

  def final_hidden(carry):
    return carry

  return Encoder("identity_encoder()", features, init, apply, final_hidden)
