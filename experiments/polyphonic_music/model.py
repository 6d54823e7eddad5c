"""RNN-NADE: a recurrent network over time and an autoregressive model over the keys of a step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import dropout as drop
from rnnjax.decoding.sampling import Sampler, generate
from rnnjax.encoders import Encoder
from rnnjax.types import Array, Carry, Key, Params


class RnnNade(nn.Module):
  """Autoregressive model of a sequence of binary vectors xₜ [K], over steps t and elements k.

      hₜ = encoder(xₜ₋₁),  x₀ = 0;   aₜ, bₜ = dropout(hₜ) A + a
      p(xₜₖ = 1 | xₜ₁ ... xₜ,ₖ₋₁) = σ(bₜₖ + Vₖ · tanh(aₜ + Σⱼ₍ⱼ﹤ₖ₎ xₜⱼ Wⱼ))

  RNN-NADE is from Boulanger-Lewandowski, Bengio & Vincent 2012, NADE from Larochelle & Murray 2011.
  If F = 0, the elements of a step are independent given the earlier steps, with
  p(xₜₖ = 1) = σ(bₜₖ).

  Attributes:
    encoder: the unidirectional recurrent encoder.
    num_keys: K, the number of elements.
    nade_features: F, the hidden size of the NADE, equal to the size of aₜ.
    dropout: variational dropout rate of the encoder outputs (the same mask at all steps).
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
    """Return the logit of each xₜₖ given all earlier steps and the elements of step t before k.

    Args:
      rolls: the binary vectors [T, B, K].
      lengths: the valid steps of each row [B].
      key: the random key of dropout; None for inference.

    Returns:
      The logits [T, B, K].
    """
    keys = [None] * 2 if key is None else jax.random.split(key)
    previous_steps = jnp.pad(rolls, [(1, 0), (0, 0), (0, 0)])[:-1]
    _, hs = self.encoder.apply(self._encoder_params, previous_steps, lengths, key=keys[0])
    a, b = self._split_outputs(self.outputs(drop.variational_dropout(hs, self.dropout, keys[1])))
    if not self.nade_features:
      return b
    terms = jnp.einsum("...k,kf->...kf", rolls, self.W)
    lower_sum = jnp.cumsum(terms, -2) - terms  # Σ over j < k
    return b + jnp.einsum("...kf,kf->...k", jnp.tanh(a[..., None, :] + lower_sum), self.V)

  def next_outputs(self, rolls: Array, lengths: Array | None = None, carry: Carry = None):
    """Run the encoder over rolls [T, B, K]; return its carry and [a, b] of the next step.

    [a, b] is the concatenation [B, F + K]. All rows must have T steps.
    """
    carry, hs = self.encoder.apply(self._encoder_params, rolls, lengths, carry=carry)
    return carry, self.outputs(hs[-1])

  def predict_next(self, params: Params, *args) -> tuple[Carry, Array]:
    """Call `next_outputs` with the given parameters; `generate` expects this signature."""
    return self.apply({"params": params}, *args, method="next_outputs")

  def chord_sampler(self, params: Params) -> Sampler:
    """Return a function (key, [a, b]) -> x that samples the elements of x [B, K] one by one."""

    def choose(key, outputs):
      a, b = self._split_outputs(outputs)
      if not self.nade_features:
        return sample_bernoulli(key, b)
      nade_params = params["W"], params["V"], b
      first_input = jnp.zeros_like(b[None, :, 0])
      _, chord = generate(
        nade_step,
        nade_params,
        first_input,
        key,
        num_tokens=self.num_keys,
        carry=(0, a),
        sampler=sample_bernoulli,
      )
      return chord.T

    return choose

  def sample_roll(self, params: Params, prompt: Array, steps: int, key: Key) -> np.ndarray:
    """Sample a continuation of a prompt [T, K]; return prompt and continuation [T + steps, K]."""
    inputs = np.pad(prompt, [(1, 0), (0, 0)])[:, None]  # x₀ = 0
    sampler = self.chord_sampler(params)
    _, sampled = generate(self.predict_next, params, inputs, key, num_tokens=steps, sampler=sampler)
    return np.concatenate([prompt, sampled[:, 0]])

  @property
  def _encoder_params(self):
    # flax would convert the nested dict to a FrozenDict if it were an attribute of the module.
    return self.get_variable("params", "encoder")

  def _split_outputs(self, outputs):
    return jnp.split(outputs, [self.nade_features], -1)


def nade_step(params: tuple, x: Array, lengths: None, carry: Carry) -> tuple[Carry, Array]:
  """Advance the NADE by one element k; return the next carry and the logit [B] of xₜₖ.

  Args:
    params: the tuple (W [K, F], V [K, F], bₜ [B, K]).
    x: the previous element xₜ,ₖ₋₁ [1, B]; 0 if k is 0.
    lengths: unused; part of the signature that `generate` expects.
    carry: the tuple (k, aₜ + Σⱼ₍ⱼ﹤ₖ₋₁₎ xₜⱼ Wⱼ [B, F]).
  """
  (W, V, b), (k, a) = params, carry
  # If k is 0, x is 0, so the product with W[-1] is 0.
  a = a + jnp.outer(x[0], W[k - 1])
  return (k + 1, a), b[:, k] + jnp.tanh(a) @ V[k]


def sample_bernoulli(key: Key, logits: Array) -> Array:
  """For each logit, return 1 with probability σ(logit), else 0."""
  return jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype)
