"""A sequence from another one: encoder, memory, decoder, softmax."""

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
  """What does not change while a text is written: the parameters, and what was read."""

  params: Params
  tokens: Array
  memory: EncoderMemory


class Seq2Seq(nn.Module):
  """Many to many, not in step: p(wₜ₊₁ | w₁ ... wₜ, source).

      memory = encoder(E_s[source]);   carry = bridge(where the encoder ended)
      ys = decoder(E_t[w₁ ... w_T], memory, carry);   p(wₜ₊₁) = softmax(yₜ Wᵀ + b)

  A pointer-generator (See, Liu & Manning 2017) can also copy what it attends to, where source and
  target have one vocabulary:

      p(wₜ₊₁ = w) = g softmax(yₜ Wᵀ + b)_w + (1 − g) Σₛ αₜₛ [sourceₛ = w],   g = σ(yₜ · u + b_g)

  In training the decoder reads what was true (teacher forcing, Williams & Zipser 1989), in use what
  it has written itself.

  Attributes:
    source, target: tables of vectors, E_s [V, D] and E_t.
    encoder, decoder: the recurrent parts.
    softmax: the last layer; W is E_t (Press & Wolf 2017), with a linear map before it.
    dropout: rate at which features of E_s, E_t, the memory and ys vanish, for all steps at once.
    word_dropout: rate at which whole words of the source and of what the decoder reads vanish.
    copy: the model is a pointer-generator.
    sampled: rate, the same throughout, at which in training the decoder reads its own guess instead
      of what was true (scheduled sampling, Bengio et al. 2015), a guess made all at once from what
      was true before.
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
    self.param("softmax", lambda key: {"b": self.output_layer.init(key, self.target.features)["b"]})

  def __call__(
    self,
    tokens: Array,
    lengths: Array,
    targets: Array,
    weights: Array,
    label_smoothing: float = 0.0,
    key: Key | None = None,
  ) -> tuple[Array, Array]:
    """tokens [S, B], lengths [B], targets [T + 1, B], weights [T, B] -> Σ weights · nats,
    α [T, S, B].

    Dropout and sampling act where a key is given.

    Args:
      smoothing: of the true words; what it takes from them is shared by all.
    """
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    memory, carry = self.encode(tokens, lengths, keys[0])
    read, labels = targets[:-1], targets[1:]
    ys, α = self._decode(read, memory, carry, keys[1])
    if self.scheduled_sampling_prob and key is not None:
      # Each guess follows what was true before it; then the guesses are read.
      guess = jnp.argmax(self._logits(ys, α, tokens), -1)[:-1]
      own = jax.random.bernoulli(keys[2], self.scheduled_sampling_prob, guess.shape)
      read = read.at[1:].set(jnp.where(own, guess, read[1:]))
      ys, α = self._decode(jax.lax.stop_gradient(read), memory, carry, keys[3])
    if self.copy_attention:
      log_p = self._pointer_log_probs(ys, α, tokens)
      own = jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
      total = -jnp.sum(weights * ((1 - label_smoothing) * own + label_smoothing * log_p.mean(-1)))
    else:
      total = self.output_layer.loss(self._output_params(), ys, labels, weights)
      total += (
        label_smoothing * self._smoothing_loss(ys, labels, weights) if label_smoothing else 0.0
      )
    return total, α

  def predict_tokens(self, tokens: Array, lengths: Array, decoder_inputs: Array) -> Array:
    """tokens [S, B], lengths [B], what was true [T, B] -> the likeliest token after each."""
    memory, carry = self.encode(tokens, lengths)
    ys, α = self._decode(decoder_inputs, memory, carry, None)
    return jnp.argmax(self._logits(ys, α, tokens), -1)

  def attention_weights(self, tokens: Array, lengths: Array, decoder_inputs: Array) -> Array:
    """tokens [S, B], lengths [B], what is read of the target [T, B] -> α [T, S, B]."""
    memory, carry = self.encode(tokens, lengths)
    return self._decode(decoder_inputs, memory, carry, None)[1]

  def encode(self, tokens: Array, lengths: Array, key: Key | None = None):
    """tokens [S, B], lengths [B] -> the decoder's memory and first carry."""
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    xs = drop.word_dropout(self.source(tokens), self.word_dropout, keys[0])
    xs = drop.variational_dropout(xs, self.dropout, keys[1])
    carry, hs = self.encoder.apply(self._get_params("encoder"), xs, lengths, key=keys[2])
    hs = drop.variational_dropout(hs, self.dropout, keys[3])
    if not isinstance(self.source, nn.Embed):  # the grid of a picture, all of which is there
      lengths = jnp.full_like(lengths, hs.shape[0])
    memory = self.decoder.prepare_memory(self._get_params("decoder"), hs, lengths)
    return memory, self.decoder.initial_carry(
      self._get_params("decoder"), self.encoder.final_hidden(carry), memory
    )

  def next_logits(self, source: Array, memory: EncoderMemory, tokens: Array, carry: Carry):
    """source [S, B], its memory, tokens [T, B] -> carry, log p of what follows the last of them, up
    to a constant, [B, V]."""
    carry, ys, α = self.decoder.apply(
      self._get_params("decoder"), self.target(tokens), memory, carry=carry
    )
    return carry, self._logits(self.narrow(ys[-1:]), α[-1:], source)[0]

  def predict_next(self, encoded: EncodedSource, tokens: Array, lengths: None, carry: Carry):
    """`following` as a function, which is what `generate` and `beam` want."""
    del lengths
    params = {"params": encoded.params}
    return self.apply(params, encoded.tokens, encoded.memory, tokens, carry, method="following")

  def coverage_score(self, memory: EncoderMemory, carry: Carry) -> Array | None:
    """Σₛ log min(Σₜ αₜₛ, 1) [B] over all steps so far, where the decoder counts them; else None."""
    if "coverage" not in carry:
      return None
    there = padding_mask(memory.values, memory.lengths).T
    return jnp.log(jnp.where(there, jnp.clip(carry["coverage"], 1e-9, 1), 1)).sum(-1)

  def _decode(self, tokens, memory, carry, key):
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    xs = drop.word_dropout(self.target(tokens), self.word_dropout, keys[0])
    xs = drop.variational_dropout(xs, self.dropout, keys[1])
    _, ys, α = self.decoder.apply(self._get_params("decoder"), xs, memory, carry=carry, key=keys[2])
    return self.narrow(drop.variational_dropout(ys, self.dropout, keys[3])), α

  def _logits(self, ys, α, source):
    """log p of what follows, up to a constant, [T, B, V]."""
    return (
      self._pointer_log_probs(ys, α, source)
      if self.copy_attention
      else self.output_layer.logits(self._output_params(), ys)
    )

  def _pointer_log_probs(self, ys, α, source):
    """log p [T, B, V] of a pointer-generator, from narrow ys [T, B, D], α [T, S, B] and [S, B]."""
    log_g, log_not = (jax.nn.log_sigmoid(sign * self.gate(ys)) for sign in (1, -1))
    written = log_g + jax.nn.log_softmax(self.output_layer.logits(self._output_params(), ys))
    steps, rows = jnp.arange(len(ys))[:, None, None], jnp.arange(source.shape[1])
    copied = jnp.zeros_like(written).at[steps, rows, source[None]].add(α.astype(written.dtype))
    return jnp.logaddexp(written, log_not + jnp.log(jnp.maximum(copied, 1e-30)))

  def _smoothing_loss(self, ys, labels, weights):
    """Σ weights (z_label − mean of z): what smoothing adds to −log p, in logits z."""
    last = self._output_params()
    own = jnp.sum(ys * last["W"][labels], -1) + last["b"][labels]
    return jnp.sum(weights * (own - ys @ last["W"].mean(0) - last["b"].mean()))

  def _output_params(self):
    return self._get_params("softmax") | {"W": self.target.embedding}

  def _get_params(self, name):
    return self.get_variable("params", name)
