"""The linear recurrent unit: Orvieto et al., Resurrecting Recurrent Neural Networks for Long
Sequences, 2023.

A complex state whose units turn and fade, each at a rate of its own that no input changes. It is
the recurrence alone, linear from x to y: the paper puts what is not linear between its layers.
"""

import math

import jax
import jax.numpy as jnp

from rnnjax.cells.base import accumulation_dtype, cell_factory, linear_recurrence, zeros_like_batch
from rnnjax.types import Array, Params


def project(params: Params, x: Array) -> Array:
  """u = [x B_re, x B_im, x D]: [..., D] -> [..., 2N + H]."""
  return jnp.concatenate([x @ params[name] for name in ("B_re", "B_im", "D")], -1)


def coefficients(params: Params, u: Array) -> tuple[Array, Array]:
  """One tick of the state of an LRU, sₜ = a ⊙ sₜ₋₁ + bₜ.

      λ = exp(−exp(ν) + i exp(θ)),  γ = exp(log γ)
      sₜ = λ ⊙ sₜ₋₁ + γ ⊙ (xₜ B)                   B = B_re + i B_im

  |λ| < 1 whatever ν is, so no state grows without bound.

  Args:
    params: {"nu_log", "theta_log", "gamma_log": [N], "B_re", "B_im": [D, N], "C_re", "C_im":
      [N, H], "D": [D, H]}. Only the first three are read here.
    u: [..., 2N + H], what `project` made of xₜ.

  Returns:
    a = λ [N] and b = γ ⊙ (xₜ B) [..., N], complex.
  """
  ν, θ, γ = (jnp.exp(params[name]) for name in ("nu_log", "theta_log", "gamma_log"))
  N = len(ν)
  return jnp.exp(jax.lax.complex(-ν, θ)), γ * jax.lax.complex(u[..., :N], u[..., N : 2 * N])


def readout(params: Params, s: Array, u: Array) -> Array:
  """yₜ = Re(sₜ C) + xₜ D: [..., N], [..., 2N + H] -> [..., H]."""
  return s.real @ params["C_re"] - s.imag @ params["C_im"] + u[..., 2 * s.shape[-1] :]


@cell_factory
def lru(
  features: int,
  *,
  num_states: int | None = None,
  r_min: float = 0.0,
  r_max: float = 1.0,
  max_phase: float = 2 * math.pi,
):
  """An LRU of H = features outputs and N complex states; parameters: 2DN + 2NH + DH + 3N.

  It starts with λ spread evenly over a ring of the complex plane, and with γ = √(1 − |λ|²), so that
  white noise in gives states of variance one. What is far back is kept by λ near the unit circle.

  Args:
    features: H.
    states: N; as many as H where it is None.
    inner, outer: the radii of the ring, r_min and r_max in the paper.
    phase: the angles of λ lie between 0 and this.

  >>> lru(100, r_min=0.9)
  lru(100, r_min=0.9)
  """
  H, N = features, features if num_states is None else num_states
  if N < 1:
    raise ValueError(f"lru needs a positive number of states; got {num_states}")
  if not 0 <= r_min < r_max <= 1:
    raise ValueError(f"the ring of lru needs 0 <= inner < outer <= 1; got {r_min} and {r_max}")

  def begin(key, D):
    keys = jax.random.split(key, 7)
    normal = lambda k, rows, width, parts: (
      jax.random.normal(k, (rows, width)) / math.sqrt(parts * rows)
    )
    area = jax.random.uniform(keys[0], N, minval=r_min**2, maxval=r_max**2)  # |λ|²
    ν = -jnp.log(area) / 2
    θ = jax.random.uniform(keys[1], N, maxval=max_phase)
    return {
      "nu_log": jnp.log(ν),
      "theta_log": jnp.log(θ),
      "gamma_log": jnp.log1p(-area) / 2,
      "B_re": normal(keys[2], D, N, 2),
      "B_im": normal(keys[3], D, N, 2),
      "C_re": normal(keys[4], N, H, 1),
      "C_im": normal(keys[5], N, H, 1),
      "D": normal(keys[6], D, H, 1),
    }

  def start(x):
    s = zeros_like_batch(x, N, accumulation_dtype(x.dtype))
    return zeros_like_batch(x, H), s, s

  return {
    "init": begin,
    "initial_carry": start,
    **linear_recurrence(coefficients, readout, project),
  }
