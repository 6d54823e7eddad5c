"""Numbers at every step from numbers at every step: notes, loads, sounds, faces."""

import flax.linen as nn
import jax

from rnnjax import dropout as drop
from rnnjax.encoders import Encoder
from rnnjax.types import Array, Key


class SequenceLabeler(nn.Module):
  """Many to many in step, of vectors.

      hs = encoder(drop(embedding(xs)));   ys = drop(hs) W + b

  What a y stands for, such as logits or quantiles, is the loss's affair.

  Attributes:
    encoder: the recurrent part.
    outputs: K.
    embedding: xs [T, B, D] -> [T, B, E], such as a dense layer; None for xs themselves.
    input_dropout: rate at which features of what the encoder reads vanish, for all steps at once.
    output_dropout: the same for hs.
  """

  encoder: Encoder
  num_outputs: int
  embedding: nn.Module | None = None
  input_dropout: float = 0.0
  output_dropout: float = 0.0

  @nn.compact
  def __call__(self, xs: Array, lengths: Array, key: Key | None = None) -> Array:
    """xs [T, B, D], lengths [B] -> ys [T, B, K]. Dropout acts where a key is given."""
    keys = [None] * 3 if key is None else jax.random.split(key, 3)
    xs = self.embedding(xs) if self.embedding else xs
    xs = drop.variational_dropout(xs, self.input_dropout, keys[0])
    params = self.param("encoder", self.encoder.init, xs.shape[-1])
    _, hs = self.encoder.apply(params, xs, lengths, key=keys[1])
    return nn.Dense(self.num_outputs, name="outputs")(
      drop.variational_dropout(hs, self.output_dropout, keys[2])
    )
