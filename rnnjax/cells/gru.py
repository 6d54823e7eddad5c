"""The gated recurrent unit: Cho et al., Learning Phrase Representations using RNN
Encoder-Decoder, 2014.

There are two common variants. The paper and most lecture notes apply the reset gate before the
product with U. cuDNN, PyTorch and Keras apply it after the product and have one more bias, b_hn.
"""

import jax
import jax.numpy as jnp

from rnnjax.cells.base import additive, cell_factory, project, zero_carry
from rnnjax.cells.initializers import chrono_bias, init_gates
from rnnjax.types import Array, Carry, Params

σ = jax.nn.sigmoid
NUM_GATES = 3


def gru_step_reset_before(params: Params, carry: Carry, u: Array) -> tuple[Carry, Array]:
  """Run one step of a GRU whose reset gate is applied before the product with U.

      uᵣ, u_z, uₙ = split(uₜ)                      uₜ = xₜ W + b
      r, z = σ(uᵣ + hₜ₋₁ Uᵣ), σ(u_z + hₜ₋₁ U_z)
      n = tanh(uₙ + (r ⊙ hₜ₋₁) Uₙ)
      hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁

  Many lecture notes call the update gate Γᵤ, where Γᵤ = 1 − z.

  Args:
    params: {"W": [D, 3H], "U": [H, 3H], "b": [3H]}; only U is used here.
    carry: the tuple (h,) with h [..., H].
    u: projected inputs xₜ W + b, [..., 3H].

  Returns:
    The carry (h,) and the output h.
  """
  # Each gate has its own product. If h @ U[:, :2H] is computed first and then split, XLA's CPU
  # compiler (jaxlib 0.10.2) computes a wrong float64 gradient at some sizes.
  (h,) = carry
  ur, uz, un = jnp.split(u, NUM_GATES, -1)
  Ur, Uz, Un = jnp.split(params["U"], NUM_GATES, -1)
  r, z = σ(ur + h @ Ur), σ(uz + h @ Uz)
  n = jnp.tanh(un + (r * h) @ Un)
  h = (1 - z) * n + z * h
  return (h,), h


def gru_step_reset_after(params: Params, carry: Carry, gates: list[Array]) -> tuple[Carry, Array]:
  """Run one step of a GRU whose reset gate is applied after the product with U.

      uᵣ, u_z, uₙ = split(xₜ W + b),  vᵣ, v_z, vₙ = split(hₜ₋₁ U)
      r, z = σ(uᵣ + vᵣ), σ(u_z + v_z)
      n = tanh(uₙ + r ⊙ (vₙ + b_hn))
      hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁

  Args:
    params: {"W": [D, 3H], "U": [H, 3H], "b": [3H], "b_hn": [H]}; only b_hn is used here.
    carry: the tuple (h,) with h [..., H].
    gates: the list [uᵣ + vᵣ, u_z + v_z, uₙ, vₙ], each [..., H].

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
  """Build a GRU with H = features hidden units.

  The GRU has 3(DH + H² + H) parameters for reset="before", and H more for reset="after".

  Args:
    features: number of hidden units, H.
    reset: "before" applies the reset gate before the product with U, as in the paper. "after"
      applies it after the product, as in cuDNN, PyTorch and Keras.
    chrono: longest time constant in steps, from which the biases of the update gate are initialized
      (`chrono_bias`); None initializes the biases to 0.

  Raises:
    ValueError: reset is not "before" or "after".
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
