"""The vanilla recurrent cell: Elman, Finding Structure in Time, 1990.

With activation="relu", U is initialized to the identity, so that h initially persists over time
(IRNN; Le, Jaitly & Hinton, A Simple Way to Initialize Recurrent Networks of Rectified Linear Units,
2015).
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.cells.base import additive, cell_factory, zero_carry
from rnnjax.cells.initializers import init_gates
from rnnjax.types import Array, Carry, Params

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def vanilla_step(params: Params, carry: Carry, gates: list[Array], activation=jnp.tanh):
  """Run one step of a vanilla cell.

      z = xₜ W + b + hₜ₋₁ U
      hₜ = tanh(z)

  Args:
    params: {"W": [D, H], "U": [H, H], "b": [H]}; not used here.
    carry: the tuple (h,) with h [..., H].
    gates: the list [z] with z [..., H].
    activation: nonlinearity that is applied to z; tanh by default.

  Returns:
    The carry (h,) and the output h.

  >>> float(vanilla_step({}, (jnp.ones(1),), [jnp.zeros(1)])[1][0])
  0.0
  """
  (z,) = gates
  h = activation(z)
  return (h,), h


def init_irnn(key, D, H):
  """Return the initial parameters of an IRNN: W ~ N(0, 0.001²), U = I, b = 0."""
  return {"W": 1e-3 * jax.random.normal(key, (D, H)), "U": jnp.eye(H), "b": jnp.zeros(H)}


@cell_factory
def vanilla(features: int, activation: str = "tanh"):
  """Build a vanilla cell with H = features hidden units and DH + H² + H parameters.

  Args:
    features: number of hidden units, H.
    activation: "tanh" or "relu". With "relu", U is initialized to the identity (IRNN).

  Raises:
    ValueError: activation is not "tanh" or "relu".

  >>> vanilla(200)
  vanilla(200)
  """
  if activation not in ACTIVATIONS:
    raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}; got {activation!r}")
  if activation == "relu":
    init = functools.partial(init_irnn, H=features)
  else:
    init = functools.partial(init_gates, H=features, num_gates=1)
  pointwise = functools.partial(vanilla_step, activation=ACTIVATIONS[activation])
  return {"init": init, "initial_carry": zero_carry(features), **additive(pointwise, 1)}
