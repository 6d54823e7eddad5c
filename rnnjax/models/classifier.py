"""Sequence classifier: embedding, encoder, pooling, one dense layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax.encoders import Encoder
from rnnjax.pooling import POOLINGS
from rnnjax.types import Array, Key


class Classifier(nn.Module):
  """A classifier of token sequences (many to one).

      x = [drop([E[tokens], c]), drop(r)];  h = encoder(x);  s = pooling(h)
      logits = drop(s) W + b  (+ Σₜ drop(rₜ)/√length A)

  The contextual embedding c of a language model is optional. Additional features r, such as n-gram
  features, are optional too. The features r are concatenated to the encoder's inputs. A linear map
  A of the sum of r over time is also added to the logits.

  Attributes:
    embedding: tokens [T, B] -> vectors [T, B, D], E in the equation.
    encoder: the recurrent encoder.
    num_classes: K, the number of classes; two classes have a single logit.
    pooling: the name of the pooling, a key of POOLINGS.
    word_dropout: dropout rate of whole vectors [E[tokens], c], and of individual features in r.
    input_dropout: dropout rate of the elements of [E[tokens], c], with one mask for all steps.
    output_dropout: dropout rate of the elements of s.
    context: (tokens [T, B], lengths [B]) -> c [T, B, C]; None for no contextual embedding.
  """

  embedding: nn.Module
  encoder: Encoder
  num_classes: int
  pooling: str = "last"
  word_dropout: float = 0.0
  input_dropout: float = 0.0
  output_dropout: float = 0.0
  context: nn.Module | None = None

  @nn.compact
  def __call__(
    self, tokens: Array, lengths: Array, features: Array | None = None, key: Key | None = None
  ) -> Array:
    """Return the logits [B, K], or [B, 1] for two classes.

    Args:
      tokens: token ids [T, B].
      lengths: sequence lengths [B].
      features: additional features r [T, B, F], such as n-gram features, 0 at padded steps; F must
        be a multiple of the number of logits. None for no additional features.
      key: the random key of dropout; None for no dropout.
    """
    keys = [None] * 5 if key is None else jax.random.split(key, 5)
    outputs = self.num_classes if self.num_classes > 2 else 1
    xs = self.embedding(tokens)
    if self.context:
      xs = jnp.concatenate([xs, self.context(tokens, lengths)], -1)
    xs = drop.word_dropout(xs, self.word_dropout, keys[0])
    xs = drop.variational_dropout(xs, self.input_dropout, keys[1])
    if features is not None:
      features = drop.dropout(features, self.word_dropout, keys[4])
      xs = jnp.concatenate([xs, features], -1)

    params = self.param("encoder", self.encoder.init, xs.shape[-1])
    carry, ys = self.encoder.apply(params, xs, lengths, key=keys[2])
    pooling = POOLINGS[self.pooling]
    params = self.param("pooling", pooling.init, self.encoder.features)
    s = pooling.apply(params, self.encoder.final_hidden(carry), ys, lengths)
    s = drop.dropout(s, self.output_dropout, keys[3])
    logits = nn.Dense(outputs, name="logits")(s)
    if features is None:
      return logits

    # Initially, feature i is added to the logit with index i modulo the number of logits.
    def identity_init(key, shape, dtype):
      return jnp.tile(jnp.eye(outputs), (shape[0] // outputs, 1))

    length = jnp.maximum(lengths, 1)[:, None].astype(xs.dtype)
    direct = nn.Dense(outputs, use_bias=False, kernel_init=identity_init, name="direct")
    return logits + direct(features.sum(0) / jnp.sqrt(length))
