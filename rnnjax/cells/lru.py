"""The linear recurrent unit: Orvieto et al., Resurrecting Recurrent Neural Networks for Long
Sequences, 2023.

The state is complex, and its diagonal transition matrix does not depend on the input. This module
implements only the recurrence, which maps x to y linearly. The nonlinearities
between the layers of the paper's model are not included.
"""

import math

import jax
import jax.numpy as jnp

from rnnjax.cells.base import cell_factory, linear_recurrence, zero_carry
from rnnjax.types import Array, Params


def project(params: Params, x: Array) -> Array:
  """Return the projected inputs u = [x B_re, x B_im, x D] [..., 2N + H], from x [..., D]."""
  return jnp.concatenate([x @ params[name] for name in ("B_re", "B_im", "D")], -1)


def coefficients(params: Params, u: Array) -> tuple[Array, Array]:
  """Return the coefficients a and bₜ of one step of an LRU, sₜ = a ⊙ sₜ₋₁ + bₜ.

      ν, θ, γ = exp(nu_log), exp(theta_log), exp(gamma_log);  λ = exp(−ν + i θ)
      sₜ = λ ⊙ sₜ₋₁ + γ ⊙ (xₜ B)                   B = B_re + i B_im

  |λ| < 1 for every nu_log, so the state cannot diverge.

  Args:
    params: {"nu_log", "theta_log", "gamma_log": [N], "B_re", "B_im": [D, N], "C_re", "C_im":
      [N, H], "D": [D, H]}; only nu_log, theta_log and gamma_log are used here.
    u: projected inputs [xₜ B_re, xₜ B_im, xₜ D], [..., 2N + H].

  Returns:
    a = λ [N] and b = γ ⊙ (xₜ B) [..., N], complex.
  """
  ν, θ, γ = (jnp.exp(params[name]) for name in ("nu_log", "theta_log", "gamma_log"))
  N = len(ν)
  return jnp.exp(jax.lax.complex(-ν, θ)), γ * jax.lax.complex(u[..., :N], u[..., N : 2 * N])


def readout(params: Params, s: Array, u: Array) -> Array:
  """Return the output yₜ = Re(sₜ C) + xₜ D [..., H], from s [..., N] and u [..., 2N + H]."""
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
  """Build an LRU with H = features outputs and N complex states.

  The LRU has 2DN + 2NH + DH + 3N parameters. Initially λ is uniform over a ring in the complex
  plane. γ is initialized to √(1 − |λ|²), so that white noise as input gives states with variance 1.
  States with |λ| near 1 have the longest memory.

  Args:
    features: number of output features, H.
    num_states: number of complex states, N; None for N = H.
    r_min, r_max: inner and outer radius of the ring.
    max_phase: largest initial angle of λ, in radians; the smallest angle is 0.

  Raises:
    ValueError: num_states < 1, or 0 ≤ r_min < r_max ≤ 1 is violated.

  >>> lru(100, r_min=0.9)
  lru(100, r_min=0.9)
  """
  H, N = features, features if num_states is None else num_states
  if N < 1:
    raise ValueError(f"lru needs a positive number of states; got num_states={num_states}")
  if not 0 <= r_min < r_max <= 1:
    raise ValueError(f"lru needs 0 <= r_min < r_max <= 1; got {r_min} and {r_max}")

  def normal(key, fan_in, fan_out, parts):
    """Return a random matrix [fan_in, fan_out] whose elements have variance 1/(parts · fan_in).

    parts is 2 for B_re and B_im, so that an element of B has variance 1/fan_in; otherwise 1.
    """
    return jax.random.normal(key, (fan_in, fan_out)) / math.sqrt(parts * fan_in)

  def init(key, D):
    keys = jax.random.split(key, 7)
    # If |λ|² is uniform in [r_min², r_max²], λ is uniform over the area of the ring.
    squared_radius = jax.random.uniform(keys[0], N, minval=r_min**2, maxval=r_max**2)
    ν = -jnp.log(squared_radius) / 2
    θ = jax.random.uniform(keys[1], N, maxval=max_phase)
    return {
      "nu_log": jnp.log(ν),
      "theta_log": jnp.log(θ),
      "gamma_log": jnp.log1p(-squared_radius) / 2,
      "B_re": normal(keys[2], D, N, 2),
      "B_im": normal(keys[3], D, N, 2),
      "C_re": normal(keys[4], N, H, 1),
      "C_im": normal(keys[5], N, H, 1),
      "D": normal(keys[6], D, H, 1),
    }

  functions = {"init": init, "initial_carry": zero_carry(H, N, N)}
  return functions | linear_recurrence(coefficients, readout, project)
