"""The next token from those before it: embedding, encoder, softmax."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax.encoders import Encoder
from rnnjax.output_layers import OutputLayer
from rnnjax.types import Array, Carry, Key, Params


class LanguageModel(nn.Module):
  """One to many, or many to many in step: p(wₜ₊₁ | w₁ ... wₜ).

      xₜ = E[wₜ];  hs = encoder(xs);  p(wₜ₊₁) = softmax(hₜ Wᵀ + b)

  With an encoder `back` it is two models that share E, W and b, the other predicting wₜ from what
  follows (Peters et al. 2018); that one forgets at the end of each window.

  Attributes:
    embedding: tokens [T, B] -> vectors [T, B, D].
    encoder: the recurrent part, forward in time.
    softmax: the last layer.
    tied: W is E (Press & Wolf 2017; Inan, Khosravi & Socher 2017), with a linear map before it
      where the encoder is not as wide as E.
    back: an encoder backward in time, or None.
    type_dropout: rate at which words vanish wherever they stand in the batch.
    input_dropout: rate at which features of the embedding vanish, for all steps at once.
    output_dropout: the same for what the softmax reads.
  """

  embedding: nn.Embed
  encoder: Encoder
  output_layer: OutputLayer
  tied: bool = False
  backward_encoder: Encoder | None = None
  word_type_dropout: float = 0.0
  input_dropout: float = 0.0
  output_dropout: float = 0.0

  def setup(self):
    D, H = self.embedding.features, self.encoder.features
    self.param("encoder", self.encoder.init, D)
    if self.backward_encoder:
      self.param("back", self.backward_encoder.init, D)
    if self.tied and D != H:
      self.bridge = nn.Dense(D, use_bias=False)
    last = lambda key: self.output_layer.init(key, D if self.tied else H)
    if self.tied:
      last = lambda key, init=last: {"b": init(key)["b"]}
    self.param("softmax", last)

  def __call__(
    self, tokens: Array, weights: Array, carry: Carry = None, key: Key | None = None
  ) -> tuple[Carry, Array, Array, Array]:
    """tokens [T + 1, B], weights [T, B] -> carry, Σ weights · nats, hs [T, B, H], drop(hs).

    Dropout acts where a key is given.
    """
    keys = [None] * 5 if key is None else jax.random.split(key, 5)
    xs = self._embed(tokens, keys[0])
    carry, hs = self.encoder.apply(self._get_params("encoder"), xs[:-1], carry=carry, key=keys[1])
    dropped = drop.variational_dropout(hs, self.output_dropout, keys[2])
    total = self.output_layer.loss(
      self._output_params(), self._to_embed_dim(dropped), tokens[1:], weights
    )
    if self.backward_encoder:
      _, before = self.backward_encoder.apply(self._get_params("back"), xs[1:], key=keys[3])
      before = self._to_embed_dim(drop.variational_dropout(before, self.output_dropout, keys[4]))
      total = (
        total + self.output_layer.loss(self._output_params(), before, tokens[:-1], weights)
      ) / 2
    return carry, total, hs, dropped

  def logits(self, tokens: Array, carry: Carry = None) -> tuple[Carry, Array, Array]:
    """What follows each token of [T, B]: carry, hs [T, B, H], log p [T, B, V] up to a constant."""
    carry, hs = self.encoder.apply(self._get_params("encoder"), self._embed(tokens), carry=carry)
    return carry, hs, self.output_layer.logits(self._output_params(), self._to_embed_dim(hs))

  def next_logits(self, tokens: Array, lengths: Array | None = None, carry: Carry = None):
    """What follows each row's last token: tokens [T, B], lengths [B] ≥ 1 -> carry, log p [B, V]."""
    encoder = self._get_params("encoder")
    carry, hs = self.encoder.apply(encoder, self._embed(tokens), lengths, carry=carry)
    h = hs[-1] if lengths is None else jnp.take_along_axis(hs, lengths[None, :, None] - 1, 0)[0]
    return carry, self.output_layer.logits(self._output_params(), self._to_embed_dim(h))

  def predict_next(
    self, params: Params, tokens: Array, lengths: Array | None = None, carry: Carry = None
  ):
    """`following` as a function of the parameters, which is what `generate` wants."""
    return self.apply({"params": params}, tokens, lengths, carry, method="following")

  def _embed(self, tokens, key=None):
    keys = [None] * 2 if key is None else jax.random.split(key)
    V = self.embedding.num_embeddings
    xs = drop.word_type_dropout(self.embedding(tokens), tokens, V, self.word_type_dropout, keys[0])
    return drop.variational_dropout(xs, self.input_dropout, keys[1])

  def _to_embed_dim(self, hs):
    return self.bridge(hs) if self.tied and self.embedding.features != hs.shape[-1] else hs

  def _output_params(self):
    last = self._get_params("softmax")
    return last | {"W": self.embedding.embedding} if self.tied else last

  def _get_params(self, name):
    return self.get_variable("params", name)  # as an attribute flax would freeze the dict
