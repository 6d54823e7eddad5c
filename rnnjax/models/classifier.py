"""A label for a sequence of tokens: embedding, encoder, pooling, one dense layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax.encoders import Encoder
from rnnjax.pooling import POOLINGS
from rnnjax.types import Array, Key


class Classifier(nn.Module):
  """Many to one.

      x = [drop([E[tokens], c]), drop(r)];  h = encoder(x);  s = pooling(h)
      logits = drop(s) W + b  (+ Σₜ drop(rₜ)/√length A)

  What a language model makes of the tokens, c, is optional. So are the features r, such as the
  evidence of n-grams; their sum reaches the logits directly, too.

  Attributes:
    embedding: tokens [T, B] -> vectors [T, B, D].
    encoder: the recurrent part.
    classes: K; two classes share a single logit.
    pooling: one of POOLINGS.
    word_dropout: rate at which whole words, and single features, vanish.
    embedding_dropout: rate at which elements of the embedding vanish, for all steps at once.
    output_dropout: rate at which elements of s vanish.
    context: tokens [T, B], lengths [B] -> c [T, B, C]; None for none.
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
    """tokens [T, B], lengths [B], features [T, B, F] -> logits [B, K] ([B, 1] for two classes).

    Dropout acts where a key is given.
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

    encoder, pooling = self.encoder, POOLINGS[self.pooling]
    params = self.param("encoder", encoder.init, xs.shape[-1])
    carry, ys = encoder.apply(params, xs, lengths, key=keys[2])
    params = self.param("pooling", pooling.init, encoder.features)
    s = pooling.apply(params, encoder.final_hidden(carry), ys, lengths)
    s = drop.dropout(s, self.output_dropout, keys[3])
    logits = nn.Dense(outputs, name="logits")(s)
    if features is None:
      return logits
    # Every feature starts as evidence for its own class.
    own = lambda key, shape, dtype: jnp.tile(jnp.eye(outputs), (shape[0] // outputs, 1))
    length = jnp.maximum(lengths, 1)[:, None].astype(xs.dtype)
    direct = nn.Dense(outputs, use_bias=False, kernel_init=own, name="direct")
    return logits + direct(features.sum(0) / jnp.sqrt(length))
