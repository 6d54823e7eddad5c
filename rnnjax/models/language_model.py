"""Language model: embedding, encoder, softmax."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax.encoders import Encoder
from rnnjax.output_layers import OutputLayer
from rnnjax.types import Array, Carry, Key, Params


class LanguageModel(nn.Module):
  """A language model, p(wₜ₊₁ | w₁ ... wₜ).

      xₜ = E[wₜ];  hs = encoder(xs);  p(wₜ₊₁) = softmax(hₜ Wᵀ + b)

  A backward encoder adds a second language model, which predicts wₜ from the tokens after wₜ
  (Peters et al. 2018). Both models share E, W and b. The carry of the backward encoder is reset in
  each window.

  Attributes:
    embedding: tokens [T, B] -> vectors [T, B, D].
    encoder: the recurrent encoder, forward in time.
    output_layer: the softmax layer.
    tied: whether W is E (Press & Wolf 2017; Inan, Khosravi & Socher 2017). If the encoder's width
      differs from the width of E, a linear map projects hs to the width of E.
    backward_encoder: an encoder backward in time, or None.
    word_type_dropout: dropout rate of vocabulary entries; a dropped word is dropped at all its
      positions in the batch.
    input_dropout: dropout rate of the features of the embedding, with one mask for all steps.
    output_dropout: dropout rate of the features of hs, with one mask for all steps.
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
    self.param("softmax", self._init_output_params)

  def _init_output_params(self, key):
    if self.tied:
      return {"b": self.output_layer.init(key, self.embedding.features)["b"]}
    return self.output_layer.init(key, self.encoder.features)

  def __call__(
    self, tokens: Array, weights: Array, carry: Carry = None, key: Key | None = None
  ) -> tuple[Carry, Array, Array, Array]:
    """Return the carry, the loss Σ weight · (−log p(target)), hs [T, B, H] and drop(hs).

    With a backward encoder, the loss is the mean of the losses of the two directions.

    Args:
      tokens: token ids [T + 1, B]. The first T are the inputs, the last T the targets.
      weights: weight of each target [T, B].
      carry: the initial carry; None for the encoder's default.
      key: the random key of dropout; None for no dropout.
    """
    keys = [None] * 5 if key is None else jax.random.split(key, 5)
    xs = self._embed(tokens, keys[0])
    carry, hs = self.encoder.apply(self._get_params("encoder"), xs[:-1], carry=carry, key=keys[1])
    dropped = drop.variational_dropout(hs, self.output_dropout, keys[2])
    total = self._loss(dropped, tokens[1:], weights)
    if self.backward_encoder:
      _, before = self.backward_encoder.apply(self._get_params("back"), xs[1:], key=keys[3])
      before = drop.variational_dropout(before, self.output_dropout, keys[4])
      total = (total + self._loss(before, tokens[:-1], weights)) / 2
    return carry, total, hs, dropped

  def logits(self, tokens: Array, carry: Carry = None) -> tuple[Carry, Array, Array]:
    """Return the carry, hs [T, B, H] and the next-token logits [T, B, V] for tokens [T, B]."""
    carry, hs = self.encoder.apply(self._get_params("encoder"), self._embed(tokens), carry=carry)
    return carry, hs, self.output_layer.logits(self._output_params(), self._to_embed_dim(hs))

  def next_logits(self, tokens: Array, lengths: Array | None = None, carry: Carry = None):
    """Return the carry and the logits [B, V] of the token that follows each row.

    Args:
      tokens: token ids [T, B].
      lengths: number of tokens in each row [B], at least 1; None if every row has T tokens.
      carry: the initial carry; None for the encoder's default.
    """
    encoder = self._get_params("encoder")
    carry, hs = self.encoder.apply(encoder, self._embed(tokens), lengths, carry=carry)
    h = hs[-1] if lengths is None else jnp.take_along_axis(hs, lengths[None, :, None] - 1, 0)[0]
    return carry, self.output_layer.logits(self._output_params(), self._to_embed_dim(h))

  def predict_next(
    self, params: Params, tokens: Array, lengths: Array | None = None, carry: Carry = None
  ):
    """Return the result of `next_logits` for `params`. Use it as `logits_fn` of `generate`."""
    return self.apply({"params": params}, tokens, lengths, carry, method="next_logits")

  def _embed(self, tokens, key=None):
    keys = [None] * 2 if key is None else jax.random.split(key)
    V = self.embedding.num_embeddings
    xs = drop.word_type_dropout(self.embedding(tokens), tokens, V, self.word_type_dropout, keys[0])
    return drop.variational_dropout(xs, self.input_dropout, keys[1])

  def _loss(self, hs, labels, weights):
    hs = self._to_embed_dim(hs)
    return self.output_layer.loss(self._output_params(), hs, labels, weights)

  def _to_embed_dim(self, hs):
    if self.tied and self.embedding.features != hs.shape[-1]:
      return self.bridge(hs)
    return hs

  def _output_params(self):
    params = self._get_params("softmax")
    return params | {"W": self.embedding.embedding} if self.tied else params

  def _get_params(self, name):
    # A module attribute set in setup() would be a FrozenDict.
    return self.get_variable("params", name)
