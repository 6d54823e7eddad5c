"""Backpropagation through time, written out term by term.

`jax.grad` computes the same gradients, but this module returns every factor of the gradients.
Sources: Rumelhart, Hinton & Williams 1986; Werbos 1990; Hochreiter & Schmidhuber 1997 (cell state
of the LSTM).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnnjax.analysis.gradient_flow import collect_carries
from rnnjax.cells import Cell, lstm, vanilla
from rnnjax.cells.base import project
from rnnjax.types import Array, Params
from rnnjax.unroll import unroll


class BpttGradients(NamedTuple):
  """Gradients of each step's loss with respect to the states and parameters of a vanilla cell.

      ∂Lₜ/∂W = Σᵣ≤ₜ ∂Lₜ/∂hₜ ∂hₜ/∂hᵣ ∂hᵣ/∂W = Σᵣ≤ₜ xᵣ ⊗ ∂Lₜ/∂zᵣ

  Attributes:
    deltas: ∂Lₜ/∂zᵣ [T, T, H], the gradient of the loss of step t with respect to the pre-activation
      of step r, indexed by [r, t]; 0 for r > t.
    contribution_norms: ‖xᵣ ⊗ ∂Lₜ/∂zᵣ‖ [T, T], indexed by [r, t]: the norm of the contribution of
      step r to ∂Lₜ/∂W.
    grads: {"W": array, "U": array, "b": array}, the gradients of the total loss Σₜ Lₜ.
  """

  deltas: Array
  contribution_norms: Array
  grads: Params


def softmax_loss_grad(W: Array, b: Array, hs: Array, labels: Array) -> tuple[Array, Array]:
  """Return the cross entropy of a softmax layer and its gradient with respect to the hidden states.

      zₜ = hₜ W + b;   oₜ = softmax(zₜ);   Lₜ = −log oₜ[label]
      ∂Lₜ/∂zₜ = ∂Lₜ/∂oₜ ∂oₜ/∂zₜ = oₜ − onehot(label);   ∂Lₜ/∂hₜ = ∂Lₜ/∂zₜ Wᵀ

  Args:
    W: weights of the layer [H, K].
    b: biases of the layer [K].
    hs: hidden states [T, H].
    labels: class indices [T], integer.

  Returns:
    The losses Lₜ [T] in nats, and the gradients ∂Lₜ/∂hₜ [T, H].
  """
  log_o = jax.nn.log_softmax(hs @ W + b)
  losses = -jnp.take_along_axis(log_o, labels[:, None], 1)[:, 0]
  dz = jnp.exp(log_o) - jax.nn.one_hot(labels, W.shape[1])
  return losses, dz @ W.T


def rnn_backward(params: Params, xs: Array, hs: Array, dhs: Array) -> BpttGradients:
  """Return the gradients of the losses of all steps, computed in a single backward pass.

      zᵣ = xᵣ W + hᵣ₋₁ U + b;   hᵣ = tanh(zᵣ)
      ∂Lₜ/∂zᵣ = ∂Lₜ/∂hᵣ ⊙ (1 − hᵣ²);   ∂Lₜ/∂hᵣ₋₁ = ∂Lₜ/∂zᵣ Uᵀ

  Args:
    params: the parameters of `vanilla(H)`.
    xs: inputs [T, D].
    hs: outputs of the cell [T, H] for xs and the initial state 0, as returned by `rnn_states`.
    dhs: gradients ∂Lₜ/∂hₜ [T, H] of the loss of each step t, as returned by `softmax_loss_grad`.
  """
  T, H = hs.shape
  previous_hs = jnp.pad(hs, [(1, 0), (0, 0)])[:-1]

  # The backward pass is a recurrence from the last step to the first. The carry of its cell is
  # ∂Lₜ/∂hᵣ, and its batch axis contains the T losses.
  def step(params, carry, u):
    h, dh = jnp.split(u, 2, -1)
    dz = (carry[0] + dh) * (1 - h**2)
    return (dz @ params["U"].T,), dz

  backward_cell = Cell(
    "backward",
    H,
    init=None,
    step=step,
    project=lambda params, u: u,
    initial_carry=lambda u: (jnp.zeros_like(u[..., :H]),),
  )
  loss_grads = jnp.eye(T, dtype=hs.dtype)[:, :, None] * dhs[:, None]  # loss t enters at r = t
  inputs = jnp.concatenate([jnp.broadcast_to(hs[:, None], loss_grads.shape), loss_grads], -1)
  _, deltas = unroll(backward_cell, params, inputs, reverse=True)  # [r, t, H]
  dz = deltas.sum(1)
  return BpttGradients(
    deltas,
    # ‖x ⊗ dz‖ = ‖x‖ ‖dz‖.
    jnp.linalg.norm(xs, axis=-1)[:, None] * jnp.linalg.norm(deltas, axis=-1),
    {"W": xs.T @ dz, "U": previous_hs.T @ dz, "b": dz.sum(0)},
  )


def rnn_states(params: Params, xs: Array) -> Array:
  """Return the hidden states [T, H] of a vanilla cell for the inputs xs [T, D]."""
  return unroll(vanilla(params["U"].shape[0]), params, xs)[1]


def lstm_jacobian_terms(params: Params, xs: Array) -> dict[str, Array]:
  """Return the four terms of ∂cₜ/∂cₜ₋₁, the Jacobian of an LSTM's cell state in each step.

      cₜ = σ(f) ⊙ cₜ₋₁ + σ(i) ⊙ tanh(g);   hₜ₋₁ = σ(oₜ₋₁) ⊙ tanh(cₜ₋₁)

      kept        diag σ(f)
      forgetting  ∂σ(f)/∂cₜ₋₁ ⊙ cₜ₋₁ = diag(cₜ₋₁ ⊙ σ′(f)) Ufᵀ ∂hₜ₋₁/∂cₜ₋₁
      admitting   ∂σ(i)/∂cₜ₋₁ ⊙ tanh(g) = diag(tanh(g) ⊙ σ′(i)) Uiᵀ ∂hₜ₋₁/∂cₜ₋₁
      proposing   σ(i) ⊙ ∂tanh(g)/∂cₜ₋₁ = diag(σ(i) ⊙ tanh′(g)) Ugᵀ ∂hₜ₋₁/∂cₜ₋₁

  with ∂hₜ₋₁/∂cₜ₋₁ = diag(σ(oₜ₋₁) ⊙ tanh′(cₜ₋₁)). Only the first term contains no weight matrix. If
  the forget gate is open, the first term is close to the identity, so gradients do not vanish.

  Args:
    params: the parameters of `lstm(H)`.
    xs: inputs [T, D], T ≥ 2.

  Returns:
    {name: array [T − 1, H, H]}. Rows are components of cₜ, columns are components of cₜ₋₁. The sum
    of the terms is ∂cₜ/∂cₜ₋₁.
  """
  H = params["U"].shape[0]
  σ = jax.nn.sigmoid
  hs, cs = collect_carries(lstm(H), params, xs)
  i, f, g, o = jnp.split(project(params, xs) + hs[:-1] @ params["U"], 4, -1)
  Ui, Uf, Ug, _ = (U.T for U in jnp.split(params["U"], 4, -1))
  i, f, g, o, c = i[1:], f[1:], g[1:], o[:-1], cs[1:-1]  # i, f, g of step t; o, c of step t − 1
  dh_dc = σ(o) * (1 - jnp.tanh(c) ** 2)

  def σ_slope(z):
    return σ(z) * (1 - σ(z))

  def through_h(factor, U):
    return factor[:, :, None] * U[None] * dh_dc[:, None, :]

  return {
    "kept": jax.vmap(jnp.diag)(σ(f)),
    "forgetting": through_h(c * σ_slope(f), Uf),
    "admitting": through_h(jnp.tanh(g) * σ_slope(i), Ui),
    "proposing": through_h(σ(i) * (1 - jnp.tanh(g) ** 2), Ug),
  }
