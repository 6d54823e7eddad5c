"""Sequence labeler: an output vector for each input vector, e.g. for music, time series, audio."""

import flax.linen as nn
import jax

from rnnjax import dropout as drop
from rnnjax.encoders import Encoder
from rnnjax.types import Array, Key


class SequenceLabeler(nn.Module):
  """A model that maps a sequence of input vectors to one output vector for each step.

      hs = encoder(drop(embedding(xs)));   ys = drop(hs) W + b

  The loss defines the meaning of ys, such as logits or quantiles.

  Attributes:
    encoder: the recurrent encoder.
    num_outputs: K, the size of an output vector.
    embedding: xs [T, B, D] -> [T, B, E], such as a dense layer; None for the identity.
    input_dropout: dropout rate of the features of the encoder inputs, with one mask for all steps.
    output_dropout: dropout rate of the features of hs, with one mask for all steps.
  """

  encoder: Encoder
  num_outputs: int
  embedding: nn.Module | None = None
  input_dropout: float = 0.0
  output_dropout: float = 0.0

  @nn.compact
  def __call__(self, xs: Array, lengths: Array, key: Key | None = None) -> Array:
    """Return ys [T, B, K] for xs [T, B, D] with lengths [B]. Dropout is applied if `key` is set."""
    keys = [None] * 3 if key is None else jax.random.split(key, 3)
    xs = self.embedding(xs) if self.embedding else xs
    xs = drop.variational_dropout(xs, self.input_dropout, keys[0])
    params = self.param("encoder", self.encoder.init, xs.shape[-1])
    _, hs = self.encoder.apply(params, xs, lengths, key=keys[1])
    hs = drop.variational_dropout(hs, self.output_dropout, keys[2])
    return nn.Dense(self.num_outputs, name="outputs")(hs)
