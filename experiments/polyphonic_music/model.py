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
  """p(xₜ | x₁ ... xₜ₋₁) of binary vectors [K], factorized over their elements.

      hₜ = encoder(xₜ₋₁),  x₀ = 0;   aₜ, bₜ = dropout(hₜ) A + a
      p(xₜₖ = 1 | xₜ₁ ... xₜ,ₖ₋₁) = σ(bₜₖ + Vₖ · tanh(aₜ + Σⱼ₍ⱼ﹤ₖ₎ xₜⱼ Wⱼ))

  RNN-NADE: Boulanger-Lewandowski, Bengio & Vincent 2012; Larochelle & Murray 2011. If F = 0, the
  elements of a step are independent given the earlier steps: σ(bₜₖ).

  Attributes:
    encoder: the recurrent part, forward in time.
    num_keys: K.
    nade_features: F, the size of aₜ, through which an element depends on the lower ones.
    dropout: variational dropout rate of the encoder's outputs (one mask for all steps).
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
    """Return the logits of all elements, each given the earlier steps and the lower elements.

    Args:
      rolls: [T, B, K].
      lengths: [B].
      key: enables dropout; None for inference.

    Returns:
      [T, B, K].
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
    """Return the carry and [a, b] of the step after rolls [T, B, K]; all rows must have T steps."""
    carry, hs = self.encoder.apply(self._encoder_params, rolls, lengths, carry=carry)
    return carry, self.outputs(hs[-1])

  def predict_next(self, params: Params, *args) -> tuple[Carry, Array]:
    """`next_outputs` as a function of the parameters, the form that `generate` takes."""
    return self.apply({"params": params}, *args, method="next_outputs")

  def chord_sampler(self, params: Params) -> Sampler:
    """Return the sampler (key, [a, b]) -> x [B, K], which draws one element after another."""

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
    """Return a prompt [T, K] and a sampled continuation of it: [T + steps, K]."""
    inputs = np.pad(prompt, [(1, 0), (0, 0)])[:, None]  # x₀ = 0
    sampler = self.chord_sampler(params)
    _, sampled = generate(self.predict_next, params, inputs, key, num_tokens=steps, sampler=sampler)
    return np.concatenate([prompt, sampled[:, 0]])

  @property
  def _encoder_params(self):
    # flax would freeze the nested dict if it were an attribute of the module.
    return self.get_variable("params", "encoder")

  def _split_outputs(self, outputs):
    return jnp.split(outputs, [self.nade_features], -1)


def nade_step(params: tuple, x: Array, lengths: None, carry: Carry) -> tuple[Carry, Array]:
  """Read the element xₜ,ₖ₋₁ [1, B] of a step (0 before the first) and return the logit [B] of xₜₖ.

  Args:
    params: W [K, F], V [K, F] and the logits b [B, K] of this step.
    x: xₜ,ₖ₋₁.
    lengths: not used.
    carry: k, and aₜ + Σⱼ₍ⱼ﹤ₖ₋₁₎ xₜⱼ Wⱼ [B, F].
  """
  (W, V, b), (k, a) = params, carry
  # If k is 0, x is 0, and the product with W[-1] adds nothing.
  a = a + jnp.outer(x[0], W[k - 1])
  return (k + 1, a), b[:, k] + jnp.tanh(a) @ V[k]


def sample_bernoulli(key: Key, logits: Array) -> Array:
  """Return 1 with probability σ(logit), else 0."""
  return jax.random.bernoulli(key, jax.nn.sigmoid(logits)).astype(logits.dtype)
