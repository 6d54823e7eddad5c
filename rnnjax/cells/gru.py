"""The gated recurrent unit: Cho et al., Learning Phrase Representations using RNN
Encoder-Decoder, 2014.

Two textbook forms differ in where the reset gate acts: before the product with U (the paper and
most lecture notes) or after it (cuDNN, PyTorch, Keras), which needs a bias inside.
"""

import jax
import jax.numpy as jnp

from rnnjax.cells.base import (
  additive,
  cell_factory,
  chrono_bias,
  init_gates,
  project,
  zeros_like_batch,
)
from rnnjax.types import Array, Carry, Params

σ = jax.nn.sigmoid
NUM_GATES = 3


def gru_step_reset_before(params: Params, carry: Carry, u: Array) -> tuple[Carry, Array]:
  """One tick of a GRU whose reset gate acts before the product.

      uᵣ, u_z, uₙ = split(uₜ)                      uₜ = xₜ W + b
      r, z = σ(uᵣ + hₜ₋₁ Uᵣ), σ(u_z + hₜ₋₁ U_z)
      n = tanh(uₙ + (r ⊙ hₜ₋₁) Uₙ)
      hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁

  Many notes write Γᵤ for the update gate: Γᵤ = 1 − z.

  Args:
    params: {"W": [D, 3H], "U": [H, 3H], "b": [3H]}. Only U is read here.
    carry: (h,), [..., H].
    u: [..., 3H], what `project` made of xₜ.

  Returns:
    ((h,), h).
  """
  # One product a gate: of h U[:, :2H] split afterwards, XLA's CPU compiler (jaxlib 0.10.2) gets the
  # float64 gradient wrong at some widths.
  (h,) = carry
  (ur, uz, un), (Ur, Uz, Un) = (jnp.split(a, NUM_GATES, -1) for a in (u, params["U"]))
  r, z = σ(ur + h @ Ur), σ(uz + h @ Uz)
  n = jnp.tanh(un + (r * h) @ Un)
  h = (1 - z) * n + z * h
  return (h,), h


def gru_step_reset_after(params: Params, carry: Carry, gates: list[Array]) -> tuple[Carry, Array]:
  """One tick of a GRU whose reset gate acts after the product.

      uᵣ, u_z, uₙ = split(xₜ W + b),  vᵣ, v_z, vₙ = split(hₜ₋₁ U)
      r, z = σ(uᵣ + vᵣ), σ(u_z + v_z)
      n = tanh(uₙ + r ⊙ (vₙ + b_hn))
      hₜ = (1 − z) ⊙ n + z ⊙ hₜ₋₁

  Args:
    params: {"W": [D, 3H], "U": [H, 3H], "b": [3H], "b_hn": [H]}. Only b_hn is read here.
    carry: (h,), [..., H].
    gates: uᵣ + vᵣ, u_z + v_z, uₙ, vₙ, each [..., H].

  Returns:
    ((h,), h).
  """
  (h,) = carry
  r, z, un, vn = gates
  r, z = σ(r), σ(z)
  n = jnp.tanh(un + r * (vn + params["b_hn"]))
  h = (1 - z) * n + z * h
  return (h,), h


@cell_factory
def gru(features: int, reset: str = "after", chrono: float | None = None):
  """A GRU of H = features hidden units; parameters: 3(DH + H² + H), and H more for "after".

  Args:
    features: H.
    reset: "before" the product, as in the paper, or "after" it, as in cuDNN, PyTorch and Keras.
    chrono: the longest time to remember, in steps; the update gate's biases start at as many
      `lifetimes` up to it.

  >>> gru(100, reset="before")
  gru(100, reset='before')
  """
  if reset not in ("before", "after"):
    raise ValueError(f"reset must be 'before' or 'after'; got {reset!r}")
  start = lambda x: (zeros_like_batch(x, features),)

  def begin(key, D):
    params = init_gates(key, D, features, NUM_GATES)
    if chrono is not None:
      bias = chrono_bias(jax.random.fold_in(key, 1), chrono, features)
      params["b"] = params["b"].at[features : 2 * features].set(bias)
    return params

  if reset == "before":
    return {
      "init": begin,
      "initial_carry": start,
      "project": project,
      "step": gru_step_reset_before,
    }
  first = lambda key, D: begin(key, D) | {"b_hn": jnp.zeros(features)}
  return {
    "init": first,
    "initial_carry": start,
    **additive(gru_step_reset_after, NUM_GATES, num_split_gates=1),
  }
