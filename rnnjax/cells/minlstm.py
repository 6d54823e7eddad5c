"""The minimal LSTM: Feng et al., Were RNNs All We Needed?, 2024.

Its gates read the input alone and are made to sum to one, so the recurrence is linear, the state
stays within its candidates, and all steps can be taken at once. The candidate is positive, as that
of `mingru` is and for the same reason.
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
from rnnjax.cells.mingru import positive_activation
from rnnjax.types import Array, Params

σ = jax.nn.sigmoid
NUM_GATES = 3


def coefficients(params: Params, u: Array) -> tuple[Array, Array]:
  """One tick of a minLSTM, hₜ = aₜ ⊙ hₜ₋₁ + bₜ.

      f, i, n = split(uₜ)                          uₜ = xₜ W + b
      f′ = σ(f) / (σ(f) + σ(i)),  i′ = σ(i) / (σ(f) + σ(i))
      hₜ = f′ ⊙ hₜ₋₁ + i′ ⊙ g(n)

  Args:
    params: {"W": [D, 3H], "b": [3H]}, not read here.
    u: [..., 3H], what `project` made of xₜ.

  Returns:
    a = f′ and b = i′ ⊙ g(n), each [..., H].

  >>> a, b = coefficients({}, jnp.array([-200.0, -200.0, 0.0]))  # where σ is 0, and 0/0 no number
  >>> float(a[0]), float(b[0])
  (0.5, 0.25)
  """
  del params
  f, i, n = jnp.split(u, NUM_GATES, -1)
  d = jax.nn.log_sigmoid(f) - jax.nn.log_sigmoid(i)  # f′ = σ(d), i′ = σ(−d)
  return σ(d), σ(-d) * positive_activation(n)


@cell_factory
def minlstm(features: int, *, forget_bias: float = 1.0):
  """A minLSTM of H = features hidden units; parameters: 3(DH + H).

  Args:
    features: H.
    forget_bias: where the bias of the forget gate starts.

  >>> minlstm(100)
  minlstm(100)
  """

  def begin(key, D):
    params = init_dense(jax.random.split(key, NUM_GATES), D, features)
    return params | {"b": params["b"].at[:features].set(forget_bias)}

  start = lambda x: (
    zeros_like_batch(x, features),
    zeros_like_batch(x, features, accumulation_dtype(x.dtype)),
  )
  return {"init": begin, "initial_carry": start, **linear_recurrence(coefficients)}
