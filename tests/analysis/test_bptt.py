"""Backpropagation through time written out, compared with autodiff term by term."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import lstm, unroll, vanilla
from rnnjax.analysis import bptt, gradient_flow
from tests.cell_cases import CASES, H, T, random_inputs

pytestmark = pytest.mark.usefixtures("float64")
K = 3
CASE = {case.cell.name: case for case in CASES}
XS = random_inputs(batch=())
DRAW = np.random.default_rng(5)
V, BIAS, LABELS = DRAW.normal(size=(H, K)), DRAW.normal(size=K), DRAW.integers(K, size=T)


def reference_losses(params, xs=XS):
  """Return the loss of each step, computed with logsumexp and the scan backend."""
  logits = unroll(vanilla(H), params, xs, backend="scan")[1] @ V + BIAS
  return jax.nn.logsumexp(logits, -1) - logits[jnp.arange(T), LABELS]


def backward_pass(params):
  hs = bptt.rnn_states(params, jnp.asarray(XS))
  return bptt.rnn_backward(params, XS, hs, bptt.softmax_loss_grad(V, BIAS, hs, LABELS)[1])


def test_losses_and_output_gradients_equal_autodiff():
  params = CASE["vanilla(5)"].params()
  hs = bptt.rnn_states(params, XS)
  losses, dhs = bptt.softmax_loss_grad(V, BIAS, hs, LABELS)
  np.testing.assert_allclose(losses, reference_losses(params), atol=1e-12)
  total = lambda hs: bptt.softmax_loss_grad(V, BIAS, hs, LABELS)[0].sum()
  np.testing.assert_allclose(dhs, jax.grad(total)(hs), atol=1e-12)


def test_gradient_is_sum_of_all_terms():
  params = CASE["vanilla(5)"].params()
  expected = jax.grad(lambda params: reference_losses(params).sum())(params)
  for name, grad in backward_pass(params).grads.items():
    np.testing.assert_allclose(grad, expected[name], atol=1e-12, err_msg=name)


def test_each_term_equals_autodiff():
  """∂Lₜ/∂zᵣ equals the derivative of Lₜ with respect to a perturbation of zᵣ."""
  params = CASE["vanilla(5)"].params()
  gradients = backward_pass(params)

  def losses_at(ε):
    """Return the losses with ε [T, H] added to z, as H additional input features."""
    extended = params | {"W": jnp.concatenate([params["W"], jnp.eye(H)])}
    return reference_losses(extended, jnp.concatenate([XS, ε], -1))

  expected = jax.jacrev(losses_at)(jnp.zeros((T, H)))  # [t, r, H]
  np.testing.assert_allclose(gradients.deltas, expected.swapaxes(0, 1), atol=1e-12)
  outer = np.einsum("rd,rth->rtdh", XS, gradients.deltas)
  np.testing.assert_allclose(
    gradients.contribution_norms, np.linalg.norm(outer, axis=(2, 3)), atol=1e-12
  )
  assert not np.tril(gradients.contribution_norms, -1).any()


def test_lstm_memory_gradient_terms_equal_autodiff():
  """Each term is the derivative of cₜ with respect to one use of cₜ₋₁; their sum is the total."""
  params = CASE["lstm(5)"].params()
  hs, cs = gradient_flow.collect_carries(lstm(H), params, XS)
  terms = bptt.lstm_jacobian_terms(params, XS)
  gate = lambda h, t, k: (XS[t] @ params["W"] + params["b"] + h @ params["U"])[k * H : (k + 1) * H]
  σ = jax.nn.sigmoid

  def next_cell_state(t, kept, forgetting, admitting, proposing):
    # hs has the initial state in front: hs[t - 1] is the state before step t − 1.
    h = lambda c: σ(gate(hs[t - 1], t - 1, 3)) * jnp.tanh(c)
    f, i = σ(gate(h(forgetting), t, 1)), σ(gate(h(admitting), t, 0))
    return f * kept + i * jnp.tanh(gate(h(proposing), t, 2))

  for t in range(1, T):
    c = cs[t]
    np.testing.assert_allclose(next_cell_state(t, c, c, c, c), cs[t + 1], atol=1e-12)
    expected = jax.jacrev(functools.partial(next_cell_state, t), argnums=(0, 1, 2, 3))(c, c, c, c)
    for (name, term), jacobian in zip(terms.items(), expected, strict=True):
      np.testing.assert_allclose(term[t - 1], jacobian, atol=1e-12, err_msg=f"{name} at {t}")
    step = lambda c, t: next_cell_state(t, c, c, c, c)
    total = sum(term[t - 1] for term in terms.values())
    np.testing.assert_allclose(total, jax.jacrev(step)(c, t), atol=1e-12)
