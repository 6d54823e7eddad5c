"""What stands for words where a picture is the source: convolutions, and a grid to attend to."""

import flax.linen as nn
import jax.numpy as jnp

from rnnjax.encoders import Encoder
from rnnjax.types import Array


class ImageEncoder(nn.Module):
  """Pictures to grids of features (many convolutions; Xu et al. 2015 attend to such a grid).

      x ← relu(norm(conv₃ₓ₃(x)));   x ← maxpool₂ₓ₂(x)          once for each of `widths`

  It takes the place of a table of words in a Translator: a picture is a sequence of its rows.

  Attributes:
    widths: features after each halving.
  """

  channels: tuple[int, ...]

  @property
  def features(self) -> int:
    """D, of each place of the grid."""
    return self.channels[-1]

  @nn.compact
  def __call__(self, pixel_rows: Array) -> Array:
    """rows [height, B, width · 3] in [0, 255] -> [S, B, D], S = height · width / 4^len(widths)."""
    height, B = pixel_rows.shape[:2]
    x = jnp.moveaxis(pixel_rows.reshape(height, B, -1, 3), 1, 0).astype(jnp.float32) / 127.5 - 1
    for width in self.channels:
      x = nn.relu(nn.GroupNorm(num_groups=8)(nn.Conv(width, (3, 3))(x)))
      x = nn.max_pool(x, (2, 2), (2, 2))
    return jnp.moveaxis(x, 0, 2).reshape(-1, B, self.features)


def identity_encoder(features: int) -> Encoder:
  """An encoder that changes nothing: a grid is not read in any order. It ends in its mean."""
  init = lambda key, D: {}
  apply = lambda params, xs, lengths=None, *, carry=None, key=None: (jnp.mean(xs, 0), xs)
  return Encoder("seen()", features, init, apply, lambda carry: carry)
