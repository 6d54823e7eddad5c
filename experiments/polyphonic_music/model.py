"""Chords from the chords before them: a recurrent net over time, and NADE over the keys."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import dropout as drop
from rnnjax.decoding import Sampler, generate
from rnnjax.encoders import Encoder
from rnnjax.types import Array, Carry, Key, Params


class RnnNade(nn.Module):
  """p(xₜ | x₁ ... xₜ₋₁) of vectors of K zeros and ones, one element after another.

      hₜ = encoder(xₜ₋₁),  x₀ = 0;   aₜ, bₜ = drop(hₜ) A + a
      p(xₜₖ = 1 | xₜ₁ ... xₜ,ₖ₋₁) = σ(bₜₖ + Vₖ · tanh(aₜ + Σⱼ₍ⱼ﹤ₖ₎ xₜⱼ Wⱼ))

  which is RNN-NADE (Boulanger-Lewandowski, Bengio & Vincent 2012; Larochelle & Murray 2011). With
  F = 0 the elements are independent, given the past: σ(bₜₖ).

  Attributes:
    encoder: the recurrent part, forward in time.
    keys: K.
    features: F, of a; how much of a chord is known to the rest of it.
    dropout: rate at which features of hs vanish, for all steps at once.
  """

  encoder: Encoder
  num_keys: int
  nade_features: int = 0
  dropout: float = 0.0

  def setup(self):
    K, F = self.num_keys, self.nade_features
    self.param("encoder", self.encoder.init, K)
    self.outputs = nn.Dense(F + K)
    if F:
      self.W = self.param("W", nn.initializers.normal(0.01), (K, F))
      self.V = self.param("V", nn.initializers.lecun_normal(in_axis=1, out_axis=0), (K, F))

  def __call__(self, rolls: Array, lengths: Array, key: Key | None = None) -> Array:
    """rolls [T, B, K], lengths [B] -> logits [T, B, K] of each element, given what precedes it.

    Dropout acts where a key is given.
    """
    keys = [None] * 2 if key is None else jax.random.split(key)
    before = jnp.pad(rolls, [(1, 0), (0, 0), (0, 0)])[:-1]
    _, hs = self.encoder.apply(self._encoder_params, before, lengths, key=keys[0])
    a, b = self._split_outputs(self.outputs(drop.variational_dropout(hs, self.dropout, keys[1])))
    if not self.nade_features:
      return b
    terms = jnp.einsum("...k,kf->...kf", rolls, self.W)
    below = jnp.cumsum(terms, -2) - terms  # Σ over j < k
    return b + jnp.einsum("...kf,kf->...k", jnp.tanh(a[..., None, :] + below), self.V)

  def next_outputs(self, rolls: Array, lengths: Array | None = None, carry: Carry = None):
    """What follows the last of rolls [T, B, K], none of which is shorter -> carry, [a, b]."""
    carry, hs = self.encoder.apply(self._encoder_params, rolls, lengths, carry=carry)
    return carry, self.outputs(hs[-1])

  def predict_next(self, params: Params, *args) -> tuple[Carry, Array]:
    """`following` as a function of the parameters, which is what `generate` wants."""
    return self.apply({"params": params}, *args, method="following")

  def chord_sampler(self, params: Params) -> Sampler:
    """What `generate` wants, too: key, [a, b] -> x [B, K], drawn by `generate` key after key."""

    def choose(key, outputs):
      a, b = self._split_outputs(outputs)
      if not self.nade_features:
        return sample_bernoulli(key, b)
      given, silent = (params["W"], params["V"], b), jnp.zeros_like(b[None, :, 0])
      how = dict(steps=self.num_keys, carry=(0, a), choose=sample_bernoulli)
      return generate(nade_step, given, silent, key, **how)[1].T

    return choose

  def sample_roll(self, params: Params, prompt: Array, steps: int, key: Key) -> np.ndarray:
    """What has begun, a roll [T, K], and so many steps [T + steps, K] more, drawn one by one."""
    before = np.pad(prompt, [(1, 0), (0, 0)])[:, None]  # x₀ = 0
    choose = self.chord_sampler(params)
    _, drawn = generate(self.predict_next, params, before, key, num_tokens=steps, sampler=choose)
    return np.concatenate([prompt, drawn[:, 0]])

  @property
  def _encoder_params(self):
    return self.get_variable("params", "encoder")  # as an attribute flax would freeze the dict

  def _split_outputs(self, outputs):
    return jnp.split(outputs, [self.nade_features], -1)


def nade_step(params: tuple, x: Array, lengths: None, carry: Carry) -> tuple[Carry, Array]:
  """Reads xₜ,ₖ₋₁ [1, B], of the first k 0, in a chord; with the logit [B] of xₜₖ."""
  (W, V, b), (k, a) = params, carry
  a = a + jnp.outer(x[0], W[k - 1])
  return (k + 1, a), b[:, k] + jnp.tanh(a) @ V[k]


def sample_bernoulli(key: Key, logits: Array) -> Array:
  """Draws 1 with probability σ(logit), else 0."""
  return jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype)
