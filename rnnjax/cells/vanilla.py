"""The vanilla recurrent cell: Elman, Finding Structure in Time, 1990.

With activation="relu" it starts from the identity (IRNN: Le, Jaitly & Hinton, A Simple Way to
Initialize Recurrent Networks of Rectified Linear Units, 2015), so that at first it forgets nothing.
"""

import functools

import jax
import jax.numpy as jnp

from rnnjax.cells.base import additive, cell_factory, init_gates, zeros_like_batch
from rnnjax.types import Array, Carry, Params

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def vanilla_step(params: Params, carry: Carry, gates: list[Array], activation=jnp.tanh):
  """One tick of a vanilla cell.

      z = xₜ W + b + hₜ₋₁ U
      hₜ = tanh(z)

  Args:
    params: {"W": [D, H], "U": [H, H], "b": [H]}, not read here.
    carry: (h,), [..., H].
    gates: z [..., H].
    activation: the nonlinearity.

  Returns:
    ((h,), h).

  >>> float(tick({}, (jnp.ones(1),), [jnp.zeros(1)])[1][0])
  0.0
  """
  (z,) = gates
  h = activation(z)
  return (h,), h


def init_irnn(key, D, H):
  """W ~ N(0, 0.001²), U = I, b = 0: how an IRNN starts."""
  return {"W": 1e-3 * jax.random.normal(key, (D, H)), "U": jnp.eye(H), "b": jnp.zeros(H)}


@cell_factory
def vanilla(features: int, activation: str = "tanh"):
  """A vanilla cell of H = features hidden units; parameters: DH + H² + H.

  Args:
    features: H.
    activation: "tanh", or "relu" with identity initialisation (IRNN).

  >>> vanilla(200)
  vanilla(200)
  """
  if activation not in ACTIVATIONS:
    raise ValueError(f"activation must be one of {sorted(ACTIVATIONS)}; got {activation!r}")
  if activation == "relu":
    begin = functools.partial(init_irnn, H=features)
  else:
    begin = functools.partial(init_gates, H=features, num_gates=1)
  start = lambda x: (zeros_like_batch(x, features),)
  pointwise = functools.partial(vanilla_step, activation=ACTIVATIONS[activation])
  return {"init": begin, "initial_carry": start, **additive(pointwise, 1)}
