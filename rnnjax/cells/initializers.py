"""Parameter initializers of recurrent cells."""

import jax
import jax.numpy as jnp

from rnnjax.types import Array, InvalidInputError, Key, Params


def init_gates(key: Key, D: int, H: int, num_gates: int) -> Params:
  """Return {"W": W, "U": U, "b": b} for a cell with G = num_gates gates.

  W [D, GH] is Glorot uniform, U [H, GH] is orthogonal, and b [GH] is zero. The [D, H] block of W
  and the [H, H] block of U are drawn separately for each gate. Glorot & Bengio 2010; Saxe,
  McClelland & Ganguli 2014 (orthogonal).
  """
  W_keys, U_keys = jax.random.split(key, (2, num_gates))
  orthogonal = jax.nn.initializers.orthogonal()
  U = jnp.concatenate([orthogonal(k, (H, H)) for k in U_keys], -1)
  return init_dense(W_keys, D, H) | {"U": U}


def init_dense(keys: Array, D: int, H: int) -> Params:
  """Return {"W": W, "b": b} for a cell with one gate per key and without recurrent weights.

  W [D, GH] is Glorot uniform, and b [GH] is zero, where G = len(keys). The [D, H] block of W is
  drawn separately for each gate.
  """
  glorot = jax.nn.initializers.glorot_uniform()
  W = jnp.concatenate([glorot(k, (D, H)) for k in keys], -1)
  return {"W": W, "b": jnp.zeros(len(keys) * H)}


def chrono_bias(key: Key, max_steps: float, features: int) -> Array:
  """Return random gate biases b [features] for uniform time constants from 2 to max_steps.

      b = log u,  u ~ Uniform[1, max_steps − 1]
      time constant = 1/(1 − σ(b)) = 1 + u steps

  Tallec & Ollivier, Can recurrent neural networks warp time?, 2018 ("chrono initialization").

  Raises:
    InvalidInputError: max_steps is less than 2.
  """
  if not max_steps >= 2:
    raise InvalidInputError(
      f"the longest time constant (chrono) must be 2 steps or more; got {max_steps}"
    )
  return jnp.log(jax.random.uniform(key, (features,), minval=1, maxval=max_steps - 1))
