"""The minimal GRU: Feng et al., Were RNNs All We Needed?, 2024.

Its gate reads the input alone, so the recurrence is linear and all steps can be taken at once. The
candidate goes through g, as where the paper trains in log space: it is positive, and so is h. The
logarithms themselves are not needed: they keep a quotient of products of 1 − z from 0/0, and
`rnnjax.backends.associative` never divides.
"""

import jax
import jax.numpy as jnp

from rnnjax.cells.base import (
  accumulation_dtype,
  cell_factory,
  init_dense,
  linear_recurrence,
  zeros_like_batch,
)
from rnnjax.types import Array, Params

σ = jax.nn.sigmoid
NUM_GATES = 2


def positive_activation(x: Array) -> Array:
  """x + ½ where x ≥ 0, σ(x) elsewhere: continuous and positive, in place of a tanh."""
  return jnp.where(x >= 0, x + 0.5, σ(x))


def coefficients(params: Params, u: Array) -> tuple[Array, Array]:
  """One tick of a minGRU, hₜ = aₜ ⊙ hₜ₋₁ + bₜ.

      z, n = split(uₜ)                             uₜ = xₜ W + b
      hₜ = (1 − σ(z)) ⊙ hₜ₋₁ + σ(z) ⊙ g(n)

  Args:
    params: {"W": [D, 2H], "b": [2H]}, not read here.
    u: [..., 2H], what `project` made of xₜ.

  Returns:
    a = 1 − σ(z) and b = σ(z) ⊙ g(n), each [..., H].

  >>> a, b = coefficients({}, jnp.zeros(2))
  >>> float(a[0]), float(b[0])
  (0.5, 0.25)
  """
  del params
  z, n = jnp.split(u, NUM_GATES, -1)
  return σ(-z), σ(z) * positive_activation(n)  # σ(−z) = 1 − σ(z), to all digits where it is small


@cell_factory
def mingru(features: int):
  """A minGRU of H = features hidden units; parameters: 2(DH + H).

  Args:
    features: H.

  >>> mingru(100)
  mingru(100)
  """
  begin = lambda key, D: init_dense(jax.random.split(key, NUM_GATES), D, features)
  start = lambda x: (
    zeros_like_batch(x, features),
    zeros_like_batch(x, features, accumulation_dtype(x.dtype)),
  )
  return {"init": begin, "initial_carry": start, **linear_recurrence(coefficients)}
