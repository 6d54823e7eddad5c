"""Backpropagation through time written out, as one does it by hand: Werbos 1990; Rumelhart, Hinton
& Williams 1986; for the LSTM's memory Hochreiter & Schmidhuber 1997.

What these functions compute `jax.grad` computes, too; here every factor can be looked at.
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
  """What a vanilla cell's parameters and states hear of each step's loss.

      ∂Lₜ/∂W = Σᵣ≤ₜ ∂Lₜ/∂hₜ ∂hₜ/∂hᵣ ∂hᵣ/∂W = Σᵣ≤ₜ xᵣ ⊗ ∂Lₜ/∂zᵣ

  Attributes:
    errors: ∂Lₜ/∂zᵣ, at [r, t], [T, T, H]; 0 for r > t.
    share: ‖∂Lₜ/∂W‖ of the r-th term alone, at [r, t], [T, T]: how much step t learns of step r.
    grads: {"W", "U", "b"}, the sum of all terms.
  """

  deltas: Array
  contribution_norms: Array
  grads: Params


def softmax_loss_grad(W: Array, b: Array, hs: Array, labels: Array) -> tuple[Array, Array]:
  """The last layer of the textbooks, and what it tells the states.

      zₜ = hₜ W + b;   oₜ = softmax(zₜ);   Lₜ = −log oₜ[label]
      ∂Lₜ/∂zₜ = ∂Lₜ/∂oₜ ∂oₜ/∂zₜ = oₜ − onehot(label);   ∂Lₜ/∂hₜ = ∂Lₜ/∂zₜ Wᵀ

  Args:
    W, b: [H, K], [K].
    hs: [T, H].
    labels: [T].

  Returns:
    Lₜ [T], in nats, and ∂Lₜ/∂hₜ [T, H].
  """
  log_o = jax.nn.log_softmax(hs @ W + b)
  losses = -jnp.take_along_axis(log_o, labels[:, None], 1)[:, 0]
  dz = jnp.exp(log_o) - jax.nn.one_hot(labels, W.shape[1])
  return losses, dz @ W.T


def rnn_backward(params: Params, xs: Array, hs: Array, dhs: Array) -> BpttGradients:
  """Walks back from every step's loss at once.

      zᵣ = xᵣ W + hᵣ₋₁ U + b;   hᵣ = tanh(zᵣ)
      ∂Lₜ/∂zᵣ = ∂Lₜ/∂hᵣ ⊙ (1 − hᵣ²);   ∂Lₜ/∂hᵣ₋₁ = ∂Lₜ/∂zᵣ Uᵀ

  Args:
    params: of `vanilla(H)`.
    xs: [T, D].
    hs: [T, H], what it made of them, from a first state of 0.
    dhs: ∂Lₜ/∂hₜ, [T, H], each by itself, as `output` gives them.
  """
  T, H = hs.shape
  before = jnp.pad(hs, [(1, 0), (0, 0)])[:-1]

  def step(params, carry, u):
    h, begun = jnp.split(u, 2, -1)
    dz = (carry[0] + begun) * (1 - h**2)
    return (dz @ params["U"].T,), dz

  walk = Cell(
    "backward",
    H,
    init=None,
    step=step,
    project=lambda params, u: u,
    initial_carry=lambda u: (jnp.zeros_like(u[..., :H]),),
  )
  begun = jnp.eye(T, dtype=hs.dtype)[:, :, None] * dhs[:, None]  # t's walk begins at r = t
  seen = jnp.concatenate([jnp.broadcast_to(hs[:, None], begun.shape), begun], -1)
  _, errors = unroll(walk, params, seen, reverse=True)  # [r, t, H]: the walks are a batch
  dz = errors.sum(1)
  return BpttGradients(
    errors,
    jnp.linalg.norm(xs, axis=-1)[:, None] * jnp.linalg.norm(errors, axis=-1),  # of x ⊗ dz
    {"W": xs.T @ dz, "U": before.T @ dz, "b": dz.sum(0)},
  )


def rnn_states(params: Params, xs: Array) -> Array:
  """hs [T, H] of a vanilla cell over xs [T, D]."""
  return unroll(vanilla(params["U"].shape[0]), params, xs)[1]


def lstm_jacobian_terms(params: Params, xs: Array) -> dict[str, Array]:
  """The four ways by which an LSTM's memory reaches its next: the terms of ∂cₜ/∂cₜ₋₁.

      cₜ = σ(f) ⊙ cₜ₋₁ + σ(i) ⊙ tanh(g);   hₜ₋₁ = σ(oₜ₋₁) ⊙ tanh(cₜ₋₁)

      kept        diag σ(f)
      forgetting  ∂σ(f)/∂cₜ₋₁ ⊙ cₜ₋₁ = diag(cₜ₋₁ ⊙ σ′(f)) Ufᵀ ∂hₜ₋₁/∂cₜ₋₁
      admitting   ∂σ(i)/∂cₜ₋₁ ⊙ tanh(g) = diag(tanh(g) ⊙ σ′(i)) Uiᵀ ∂hₜ₋₁/∂cₜ₋₁
      proposing   σ(i) ⊙ ∂tanh(g)/∂cₜ₋₁ = diag(σ(i) ⊙ tanh′(g)) Ugᵀ ∂hₜ₋₁/∂cₜ₋₁

  with ∂hₜ₋₁/∂cₜ₋₁ = diag(σ(oₜ₋₁) ⊙ tanh′(cₜ₋₁)). The first alone does not pass a matrix: where the
  gate stays open it is near 1, and gradients live.

  Args:
    params: of `lstm(H)`.
    xs: [T, D], T ≥ 2.

  Returns:
    {name: [T − 1, H, H]}, row for the component of cₜ, column for that of cₜ₋₁; their sum is
    ∂cₜ/∂cₜ₋₁.
  """
  H, σ = params["U"].shape[0], jax.nn.sigmoid
  hs, cs = collect_carries(lstm(H), params, xs)
  i, f, g, o = jnp.split(project(params, xs) + hs[:-1] @ params["U"], 4, -1)
  Ui, Uf, Ug, _ = (U.T for U in jnp.split(params["U"], 4, -1))
  slope = lambda z: σ(z) * (1 - σ(z))
  i, f, g, o, c = i[1:], f[1:], g[1:], o[:-1], cs[1:-1]  # of step t, but o and c of the one before
  dh_dc = σ(o) * (1 - jnp.tanh(c) ** 2)
  through = lambda factor, U: factor[:, :, None] * U[None] * dh_dc[:, None, :]
  return {
    "kept": jax.vmap(jnp.diag)(σ(f)),
    "forgetting": through(c * slope(f), Uf),
    "admitting": through(jnp.tanh(g) * slope(i), Ui),
    "proposing": through(σ(i) * (1 - jnp.tanh(g) ** 2), Ug),
  }
