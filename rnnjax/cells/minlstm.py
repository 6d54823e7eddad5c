"""The minimal LSTM: Feng et al., Were RNNs All We Needed?, 2024.

The gates depend only on the input and are normalized to sum to 1. So the recurrence is linear, all
steps can run in parallel, and h is a weighted mean of the candidates. As in `mingru`, a function g
maps the candidates to positive values.
"""

import jax
import jax.numpy as jnp

from rnnjax.cells.base import cell_factory, linear_recurrence, zero_carry
from rnnjax.cells.initializers import init_dense
from rnnjax.cells.mingru import positive_activation
from rnnjax.types import Array, Params

σ = jax.nn.sigmoid
NUM_GATES = 3


def coefficients(params: Params, u: Array) -> tuple[Array, Array]:
  """Return the coefficients aₜ and bₜ of one step of a minLSTM, hₜ = aₜ ⊙ hₜ₋₁ + bₜ.

      f, i, n = split(uₜ)                          uₜ = xₜ W + b
      f′ = σ(f) / (σ(f) + σ(i)),  i′ = σ(i) / (σ(f) + σ(i))
      hₜ = f′ ⊙ hₜ₋₁ + i′ ⊙ g(n)

  Args:
    params: {"W": [D, 3H], "b": [3H]}; not used here.
    u: projected inputs xₜ W + b, [..., 3H].

  Returns:
    a = f′ and b = i′ ⊙ g(n), each [..., H].

  >>> a, b = coefficients({}, jnp.array([-200.0, -200.0, 0.0]))  # σ underflows; 0/0 would be NaN
  >>> float(a[0]), float(b[0])
  (0.5, 0.25)
  """
  del params
  f, i, n = jnp.split(u, NUM_GATES, -1)
  d = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)  # f′ = σ(d), i′ = σ(−d)
  return σ(d), σ(-d) * positive_activation(n)


@cell_factory
def minlstm(features: int, *, forget_bias: float = 1.0):
  """Build a minLSTM with H = features hidden units and 3(DH + H) parameters.

  Args:
    features: number of hidden units, H.
    forget_bias: initial bias of the forget gate.

  >>> minlstm(100)
  minlstm(100)
  """

  def init(key, D):
    params = init_dense(jax.random.split(key, NUM_GATES), D, features)
    return params | {"b": params["b"].at[:features].set(forget_bias)}

  functions = {"init": init, "initial_carry": zero_carry(features, features)}
  return functions | linear_recurrence(coefficients)
