"""The gated recurrent unit: Cho et al., Learning Phrase Representations using RNN
Encoder-Decoder, 2014.

The two textbook forms differ in where the reset gate is applied: before the product with U (the
paper and most lecture notes) or after it (cuDNN, PyTorch, Keras), which needs an inner bias.
"""

import jax
import jax.numpy as jnp

from rnnjax.cells.base import additive, cell_factory, project, zero_carry
from rnnjax.cells.initializers import chrono_bias, init_gates
from rnnjax.types import Array, Carry, Params

σ = jax.nn.sigmoid
NUM_GATES = 3


def gru_step_reset_before(params: Params, carry: Carry, u: Array) -> tuple[Carry, Array]:
  """Run one step of a GRU whose reset gate is applied before the product.

      uᵣ, u_z, uₙ = split(uₜ)                      uₜ = xₜ W + b
      r, z = σ(uᵣ + hₜ₋₁ Uᵣ), σ(u_z + hₜ₋₁ U_z)
      n = tanh(uₙ + (r ⊙ hₜ₋₁) Uₙ)
      hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁

  Many lecture notes write Γᵤ for the update gate: Γᵤ = 1 − z.

  Args:
    params: {"W": [D, 3H], "U": [H, 3H], "b": [3H]}; only U is used here.
    carry: (h,), [..., H].
    u: xₜ W + b, [..., 3H].

  Returns:
    The carry (h,) and the output h.
  """
  # One product for each gate: XLA's CPU compiler (jaxlib 0.10.2) computes a wrong float64 gradient
  # of h @ U[:, :2H] split afterwards, at some sizes.
  (h,) = carry
  ur, uz, un = jnp.split(u, NUM_GATES, -1)
  Ur, Uz, Un = jnp.split(params["U"], NUM_GATES, -1)
  r, z = σ(ur + h @ Ur), σ(uz + h @ Uz)
  n = jnp.tanh(un + (r * h) @ Un)
  h = (1 - z) * n + z * h
  return (h,), h


def gru_step_reset_after(params: Params, carry: Carry, gates: list[Array]) -> tuple[Carry, Array]:
  """Run one step of a GRU whose reset gate is applied after the product.

      uᵣ, u_z, uₙ = split(xₜ W + b),  vᵣ, v_z, vₙ = split(hₜ₋₁ U)
      r, z = σ(uᵣ + vᵣ), σ(u_z + v_z)
      n = tanh(uₙ + r ⊙ (vₙ + b_hn))
      hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁

  Args:
    params: {"W": [D, 3H], "U": [H, 3H], "b": [3H], "b_hn": [H]}; only b_hn is used here.
    carry: (h,), [..., H].
    gates: uᵣ + vᵣ, u_z + v_z, uₙ, vₙ, each [..., H].

  Returns:
    The carry (h,) and the output h.
  """
  (h,) = carry
  r, z, un, vn = gates
  r, z = σ(r), σ(z)
  n = jnp.tanh(un + r * (vn + params["b_hn"]))
  h = (1 - z) * n + z * h
  return (h,), h


@cell_factory
def gru(features: int, reset: str = "after", chrono: float | None = None):
  """Build a GRU with H = features hidden units and 3(DH + H² + H) parameters, H more for "after".

  Args:
    features: H.
    reset: where the reset gate is applied: "before" the product with U, as in the paper, or
      "after" it, as in cuDNN, PyTorch and Keras.
    chrono: longest time constant at initialization, in steps (`chrono_bias`): the update gate's
      biases are drawn for time constants up to it; None for biases of 0.

  Raises:
    ValueError: reset is neither of them.
    InvalidInputError (from init): chrono is less than 2.

  >>> gru(100, reset="before")
  gru(100, reset='before')
  """
  if reset not in ("before", "after"):
    raise ValueError(f"reset must be 'before' or 'after'; got {reset!r}")

  def init(key, D):
    params = init_gates(key, D, features, NUM_GATES)
    if chrono is not None:
      bias = chrono_bias(jax.random.fold_in(key, 1), chrono, features)
      params["b"] = params["b"].at[features : 2 * features].set(bias)
    if reset == "after":
      params["b_hn"] = jnp.zeros(features)
    return params

  functions = {"init": init, "initial_carry": zero_carry(features)}
  if reset == "before":
    return functions | {"project": project, "step": gru_step_reset_before}
  return functions | additive(gru_step_reset_after, NUM_GATES, num_split_gates=1)
