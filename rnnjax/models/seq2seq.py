"""Sequence-to-sequence model: encoder, attention memory, decoder, softmax."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax.decoders import Decoder, EncoderMemory
from rnnjax.encoders import Encoder
from rnnjax.masking import padding_mask
from rnnjax.output_layers import OutputLayer
from rnnjax.types import Array, Carry, Key, Params


class EncodedSource(NamedTuple):
  """Parameters and encoded source, passed as `params` to `generate` and `beam_search`.

  Attributes:
    params: parameters of the model.
    tokens: source tokens [S, B].
    memory: the encoder memory to which the decoder attends.
  """

  params: Params
  tokens: Array
  memory: EncoderMemory


class Seq2Seq(nn.Module):
  """A sequence-to-sequence model, p(wₜ₊₁ | w₁ ... wₜ, source).

      memory = encoder(E_s[source]);   carry = bridge(final hidden state of the encoder)
      ys = decoder(E_t[w₁ ... w_T], memory, carry);   p(wₜ₊₁) = softmax(yₜ Wᵀ + b)

  A pointer-generator (See, Liu & Manning 2017) can also copy source tokens, in proportion to their
  attention weights. Source and target must share a vocabulary:

      p(wₜ₊₁ = w) = g softmax(yₜ Wᵀ + b)_w + (1 − g) Σₛ αₜₛ [sourceₛ = w],   g = σ(yₜ · u + b_g)

  In training, the decoder inputs are the target tokens (teacher forcing, Williams & Zipser 1989).
  At inference, they are the tokens generated so far.

  Attributes:
    source: embedding table of the source, E_s [V, D], or an image encoder.
    target: embedding table of the target, E_t.
    encoder: the recurrent encoder.
    decoder: the recurrent decoder.
    output_layer: the softmax layer. Its weights W are E_t (weight tying, Press & Wolf 2017). A
      linear layer first maps ys to the width of E_t.
    dropout: dropout rate of the features of the embedded source and target, the memory and ys, with
      one mask for all steps.
    word_dropout: dropout rate of whole words of the source and of the decoder inputs.
    copy_attention: whether the model is a pointer-generator.
    scheduled_sampling_prob: probability that a decoder input is replaced by the model's prediction
      of that token (scheduled sampling, Bengio et al. 2015). It is constant during training. All
      predictions come from a single pass with teacher forcing.
  """

  source: nn.Embed
  target: nn.Embed
  encoder: Encoder
  decoder: Decoder
  output_layer: OutputLayer
  dropout: float = 0.0
  word_dropout: float = 0.0
  copy_attention: bool = False
  scheduled_sampling_prob: float = 0.0

  def setup(self):
    D, M = self.source.features, self.encoder.features
    self.param("encoder", self.encoder.init, D)
    self.param("decoder", self.decoder.init, self.target.features, M, M)
    self.narrow = nn.Dense(self.target.features, use_bias=False)
    if self.copy_attention:
      self.gate = nn.Dense(1)
    self.param("softmax", self._init_output_params)

  def _init_output_params(self, key):
    return {"b": self.output_layer.init(key, self.target.features)["b"]}

  def __call__(
    self,
    tokens: Array,
    lengths: Array,
    targets: Array,
    weights: Array,
    label_smoothing: float = 0.0,
    key: Key | None = None,
  ) -> tuple[Array, Array]:
    """Return the loss Σ weight · (−log p(label)), and the attention weights α [T, S, B].

    Args:
      tokens: source tokens [S, B].
      lengths: source lengths [B].
      targets: target tokens [T + 1, B]. The first T are the decoder inputs, the last T the labels.
      weights: weight of each label [T, B].
      label_smoothing: probability mass moved from the label to the uniform distribution.
      key: the random key of dropout and scheduled sampling; None disables both.
    """
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    memory, carry = self.encode(tokens, lengths, keys[0])
    inputs, labels = targets[:-1], targets[1:]
    ys, α = self._decode(inputs, memory, carry, keys[1])
    if self.scheduled_sampling_prob and key is not None:
      # Predict all tokens with teacher forcing, then decode again with some of the predictions.
      predictions = jnp.argmax(self._logits(ys, α, tokens), -1)[:-1]
      replace = jax.random.bernoulli(keys[2], self.scheduled_sampling_prob, predictions.shape)
      inputs = inputs.at[1:].set(jnp.where(replace, predictions, inputs[1:]))
      ys, α = self._decode(jax.lax.stop_gradient(inputs), memory, carry, keys[3])
    if self.copy_attention:
      log_p = self._pointer_log_probs(ys, α, tokens)
      label_log_p = jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
      uniform_log_p = log_p.mean(-1)
      total = -jnp.sum(
        weights * ((1 - label_smoothing) * label_log_p + label_smoothing * uniform_log_p)
      )
    else:
      total = self.output_layer.loss(self._output_params(), ys, labels, weights)
      if label_smoothing:
        total += label_smoothing * self._smoothing_loss(ys, labels, weights)
    return total, α

  def predict_tokens(self, tokens: Array, lengths: Array, decoder_inputs: Array) -> Array:
    """Return the most likely token [T, B] after each decoder input (teacher forcing).

    Args:
      tokens: source tokens [S, B].
      lengths: source lengths [B].
      decoder_inputs: target tokens [T, B].
    """
    memory, carry = self.encode(tokens, lengths)
    ys, α = self._decode(decoder_inputs, memory, carry, None)
    return jnp.argmax(self._logits(ys, α, tokens), -1)

  def attention_weights(self, tokens: Array, lengths: Array, decoder_inputs: Array) -> Array:
    """Return the attention weights α [T, S, B]. The arguments are as for `predict_tokens`."""
    memory, carry = self.encode(tokens, lengths)
    return self._decode(decoder_inputs, memory, carry, None)[1]

  def encode(self, tokens: Array, lengths: Array, key: Key | None = None):
    """Return the decoder's memory and initial carry for a source [S, B] with lengths [B]."""
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    xs = drop.word_dropout(self.source(tokens), self.word_dropout, keys[0])
    xs = drop.variational_dropout(xs, self.dropout, keys[1])
    carry, hs = self.encoder.apply(self._get_params("encoder"), xs, lengths, key=keys[2])
    hs = drop.variational_dropout(hs, self.dropout, keys[3])
    if not isinstance(self.source, nn.Embed):
      # An image encoder returns a feature grid, which has no padding.
      lengths = jnp.full_like(lengths, hs.shape[0])
    memory = self.decoder.prepare_memory(self._get_params("decoder"), hs, lengths)
    return memory, self.decoder.initial_carry(
      self._get_params("decoder"), self.encoder.final_hidden(carry), memory
    )

  def next_logits(self, source: Array, memory: EncoderMemory, tokens: Array, carry: Carry):
    """Return the decoder carry and the logits [B, V] of the token that follows `tokens`.

    Args:
      source: source tokens [S, B].
      memory: the encoded source.
      tokens: decoder inputs [T, B].
      carry: the carry of the decoder.
    """
    carry, ys, α = self.decoder.apply(
      self._get_params("decoder"), self.target(tokens), memory, carry=carry
    )
    return carry, self._logits(self.narrow(ys[-1:]), α[-1:], source)[0]

  def predict_next(self, encoded: EncodedSource, tokens: Array, lengths: None, carry: Carry):
    """Return the result of `next_logits`. Use it as `logits_fn` of `generate`, `beam_search`."""
    del lengths
    params = {"params": encoded.params}
    return self.apply(params, encoded.tokens, encoded.memory, tokens, carry, method="next_logits")

  def coverage_score(self, memory: EncoderMemory, carry: Carry) -> Array | None:
    """Return Σₛ log min(Σₜ αₜₛ, 1) [B] over all steps so far; None if the carry has no coverage."""
    if "coverage" not in carry:
      return None
    mask = padding_mask(memory.values, memory.lengths).T
    return jnp.log(jnp.where(mask, jnp.clip(carry["coverage"], 1e-9, 1), 1)).sum(-1)

  def _decode(self, tokens, memory, carry, key):
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    xs = drop.word_dropout(self.target(tokens), self.word_dropout, keys[0])
    xs = drop.variational_dropout(xs, self.dropout, keys[1])
    _, ys, α = self.decoder.apply(self._get_params("decoder"), xs, memory, carry=carry, key=keys[2])
    return self.narrow(drop.variational_dropout(ys, self.dropout, keys[3])), α

  def _logits(self, ys, α, source):
    """Return the logits [T, B, V] of the token after each step."""
    if self.copy_attention:
      return self._pointer_log_probs(ys, α, source)
    return self.output_layer.logits(self._output_params(), ys)

  def _pointer_log_probs(self, ys, α, source):
    """Return log p [T, B, V] of a pointer-generator; ys [T, B, D], α [T, S, B], source [S, B]."""
    log_g, log_copy = (jax.nn.log_sigmoid(sign * self.gate(ys)) for sign in (1, -1))
    generated = log_g + jax.nn.log_softmax(self.output_layer.logits(self._output_params(), ys))
    steps, rows = jnp.arange(len(ys))[:, None, None], jnp.arange(source.shape[1])
    copied = jnp.zeros_like(generated).at[steps, rows, source[None]].add(α.astype(generated.dtype))
    return jnp.logaddexp(generated, log_copy + jnp.log(jnp.maximum(copied, 1e-30)))

  def _smoothing_loss(self, ys, labels, weights):
    """Return the label smoothing term of the loss, Σ weight · (z_label − mean(z)), for logits z.

    mean(z) is computed from the mean of the rows of W, so the other logits are not needed.
    """
    params = self._output_params()
    z_label = jnp.sum(ys * params["W"][labels], -1) + params["b"][labels]
    return jnp.sum(weights * (z_label - ys @ params["W"].mean(0) - params["b"].mean()))

  def _output_params(self):
    return self._get_params("softmax") | {"W": self.target.embedding}

  def _get_params(self, name):
    return self.get_variable("params", name)
