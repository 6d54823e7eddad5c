"""The minimal GRU: Feng et al., Were RNNs All We Needed?, 2024.

The gate depends only on the input, so the recurrence is linear and all steps can run in parallel.
As in the paper's log-space version, a function g maps the candidate to positive values, so h is
positive. The paper divides by products of 1 − z, which may underflow, so it computes in log space.
This is unnecessary here, because `rnnjax.backends.associative` does not divide.
"""

import jax
import jax.numpy as jnp

from rnnjax.cells.base import cell_factory, linear_recurrence, zero_carry
from rnnjax.cells.initializers import init_dense
from rnnjax.types import Array, Params

σ = jax.nn.sigmoid
NUM_GATES = 2


def positive_activation(x: Array) -> Array:
  """Return g(x) = x + ½ for x ≥ 0 and σ(x) for x < 0, which is continuous and positive."""
  return jnp.where(x >= 0, x + 0.5, σ(x))


def coefficients(params: Params, u: Array) -> tuple[Array, Array]:
  """Return the coefficients aₜ and bₜ of one step of a minGRU, hₜ = aₜ ⊙ hₜ₋₁ + bₜ.

      z, n = split(uₜ)                             uₜ = xₜ W + b
      hₜ = (1 − σ(z)) ⊙ hₜ₋₁ + σ(z) ⊙ g(n)

  Args:
    params: {"W": [D, 2H], "b": [2H]}; not used here.
    u: projected inputs xₜ W + b, [..., 2H].

  Returns:
    a = 1 − σ(z) and b = σ(z) ⊙ g(n), each [..., H].

  >>> a, b = coefficients({}, jnp.zeros(2))
  >>> float(a[0]), float(b[0])
  (0.5, 0.25)
  """
  del params
  z, n = jnp.split(u, NUM_GATES, -1)
  # σ(−z) = 1 − σ(z), but σ(−z) has no cancellation error if σ(z) is close to 1.
  return σ(-z), σ(z) * positive_activation(n)


@cell_factory
def mingru(features: int):
  """Build a minGRU with H = features hidden units and 2(DH + H) parameters.

  >>> mingru(100)
  mingru(100)
  """

  def init(key, D):
    return init_dense(jax.random.split(key, NUM_GATES), D, features)

  functions = {"init": init, "initial_carry": zero_carry(features, features)}
  return functions | linear_recurrence(coefficients)
