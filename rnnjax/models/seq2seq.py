"""A sequence from another one: encoder, memory, decoder, softmax."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rnnjax import dropout as drop
from rnnjax.decoders import Decoder, Memory
from rnnjax.encoders import Encoder
from rnnjax.masking import alive
from rnnjax.output_layers import Softmax
from rnnjax.types import Array, Carry, Key, Params


class Source(NamedTuple):
  """What does not change while a text is written: the parameters, and what was read."""

  params: Params
  tokens: Array
  memory: Memory


class Translator(nn.Module):
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
  softmax: Softmax
  dropout: float = 0.0
  word_dropout: float = 0.0
  copy: bool = False
  sampled: float = 0.0

  def setup(self):
    D, M = self.source.features, self.encoder.features
    self.param("encoder", self.encoder.init, D)
    self.param("decoder", self.decoder.init, self.target.features, M, M)
    self.narrow = nn.Dense(self.target.features, use_bias=False)
    if self.copy:
      self.gate = nn.Dense(1)
    self.param("softmax", lambda key: {"b": self.softmax.init(key, self.target.features)["b"]})

  def __call__(
    self,
    tokens: Array,
    lengths: Array,
    targets: Array,
    weights: Array,
    smoothing: float = 0.0,
    key: Key | None = None,
  ) -> tuple[Array, Array]:
    """tokens [S, B], lengths [B], targets [T + 1, B], weights [T, B] -> Σ weights · nats,
    α [T, S, B].

    Dropout and sampling act where a key is given.

    Args:
      smoothing: of the true words; what it takes from them is shared by all.
    """
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    memory, carry = self.remember(tokens, lengths, keys[0])
    read, labels = targets[:-1], targets[1:]
    ys, α = self._decode(read, memory, carry, keys[1])
    if self.sampled and key is not None:
      # Each guess follows what was true before it; then the guesses are read.
      guess = jnp.argmax(self._following(ys, α, tokens), -1)[:-1]
      own = jax.random.bernoulli(keys[2], self.sampled, guess.shape)
      read = read.at[1:].set(jnp.where(own, guess, read[1:]))
      ys, α = self._decode(jax.lax.stop_gradient(read), memory, carry, keys[3])
    if self.copy:
      log_p = self._mixed(ys, α, tokens)
      own = jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]
      total = -jnp.sum(weights * ((1 - smoothing) * own + smoothing * log_p.mean(-1)))
    else:
      total = self.softmax.loss(self._last(), ys, labels, weights)
      total += smoothing * self._spread(ys, labels, weights) if smoothing else 0.0
    return total, α

  def guess(self, tokens: Array, lengths: Array, read: Array) -> Array:
    """tokens [S, B], lengths [B], what was true [T, B] -> the likeliest token after each."""
    memory, carry = self.remember(tokens, lengths)
    ys, α = self._decode(read, memory, carry, None)
    return jnp.argmax(self._following(ys, α, tokens), -1)

  def look(self, tokens: Array, lengths: Array, read: Array) -> Array:
    """tokens [S, B], lengths [B], what is read of the target [T, B] -> α [T, S, B]."""
    memory, carry = self.remember(tokens, lengths)
    return self._decode(read, memory, carry, None)[1]

  def remember(self, tokens: Array, lengths: Array, key: Key | None = None):
    """tokens [S, B], lengths [B] -> the decoder's memory and first carry."""
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    xs = drop.words(self.source(tokens), self.word_dropout, keys[0])
    xs = drop.locked(xs, self.dropout, keys[1])
    carry, hs = self.encoder.apply(self._get("encoder"), xs, lengths, key=keys[2])
    hs = drop.locked(hs, self.dropout, keys[3])
    if not isinstance(self.source, nn.Embed):  # the grid of a picture, all of which is there
      lengths = jnp.full_like(lengths, hs.shape[0])
    memory = self.decoder.remember(self._get("decoder"), hs, lengths)
    return memory, self.decoder.start(self._get("decoder"), self.encoder.last(carry), memory)

  def following(self, source: Array, memory: Memory, tokens: Array, carry: Carry):
    """source [S, B], its memory, tokens [T, B] -> carry, log p of what follows the last of them, up
    to a constant, [B, V]."""
    carry, ys, α = self.decoder.apply(
      self._get("decoder"), self.target(tokens), memory, carry=carry
    )
    return carry, self._following(self.narrow(ys[-1:]), α[-1:], source)[0]

  def read(self, known: Source, tokens: Array, lengths: None, carry: Carry):
    """`following` as a function, which is what `generate` and `beam` want."""
    del lengths
    params = {"params": known.params}
    return self.apply(params, known.tokens, known.memory, tokens, carry, method="following")

  def covered(self, memory: Memory, carry: Carry) -> Array | None:
    """Σₛ log min(Σₜ αₜₛ, 1) [B] over all steps so far, where the decoder counts them; else None."""
    if "coverage" not in carry:
      return None
    there = alive(memory.values, memory.lengths).T
    return jnp.log(jnp.where(there, jnp.clip(carry["coverage"], 1e-9, 1), 1)).sum(-1)

  def _decode(self, tokens, memory, carry, key):
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    xs = drop.words(self.target(tokens), self.word_dropout, keys[0])
    xs = drop.locked(xs, self.dropout, keys[1])
    _, ys, α = self.decoder.apply(self._get("decoder"), xs, memory, carry=carry, key=keys[2])
    return self.narrow(drop.locked(ys, self.dropout, keys[3])), α

  def _following(self, ys, α, source):
    """log p of what follows, up to a constant, [T, B, V]."""
    return self._mixed(ys, α, source) if self.copy else self.softmax.logits(self._last(), ys)

  def _mixed(self, ys, α, source):
    """log p [T, B, V] of a pointer-generator, from narrow ys [T, B, D], α [T, S, B] and [S, B]."""
    log_g, log_not = (jax.nn.log_sigmoid(sign * self.gate(ys)) for sign in (1, -1))
    written = log_g + jax.nn.log_softmax(self.softmax.logits(self._last(), ys))
    steps, rows = jnp.arange(len(ys))[:, None, None], jnp.arange(source.shape[1])
    copied = jnp.zeros_like(written).at[steps, rows, source[None]].add(α.astype(written.dtype))
    return jnp.logaddexp(written, log_not + jnp.log(jnp.maximum(copied, 1e-30)))

  def _spread(self, ys, labels, weights):
    """Σ weights (z_label − mean of z): what smoothing adds to −log p, in logits z."""
    last = self._last()
    own = jnp.sum(ys * last["W"][labels], -1) + last["b"][labels]
    return jnp.sum(weights * (own - ys @ last["W"].mean(0) - last["b"].mean()))

  def _last(self):
    return self._get("softmax") | {"W": self.target.embedding}

  def _get(self, name):
    return self.get_variable("params", name)
