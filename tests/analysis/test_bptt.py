"""Backpropagation written out is what autodiff computes: every term, and for every cell."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import gru, lstm, unroll, vanilla
from rnnjax.analysis import bptt, gradient_flow
from tests import numpy_reference
from tests.cell_cases import CASES, NAMES, H, T, random_inputs

pytestmark = pytest.mark.usefixtures("float64")
K = 3
CASE = {case.cell.name: case for case in CASES}
XS = random_inputs(batch=())
DRAW = np.random.default_rng(5)
V, BIAS, LABELS = DRAW.normal(size=(H, K)), DRAW.normal(size=K), DRAW.integers(K, size=T)


def reference_losses(params, xs=XS):
  """Each step's loss, by another way: logsumexp, and scan."""
  logits = unroll(vanilla(H), params, xs, backend="scan")[1] @ V + BIAS
  return jax.nn.logsumexp(logits, -1) - logits[jnp.arange(T), LABELS]


def backward_pass(params):
  hs = bptt.rnn_states(params, jnp.asarray(XS))
  return bptt.rnn_backward(params, XS, hs, bptt.softmax_loss_grad(V, BIAS, hs, LABELS)[1])


def test_losses_and_output_gradients_equal_autodiff():
  params = CASE["vanilla(5)"].params()
  hs = bptt.rnn_states(params, XS)
  each, dhs = bptt.softmax_loss_grad(V, BIAS, hs, LABELS)
  np.testing.assert_allclose(each, reference_losses(params), atol=1e-12)
  total = lambda hs: bptt.softmax_loss_grad(V, BIAS, hs, LABELS)[0].sum()
  np.testing.assert_allclose(dhs, jax.grad(total)(hs), atol=1e-12)


def test_gradient_is_sum_of_all_terms():
  params = CASE["vanilla(5)"].params()
  true = jax.grad(lambda params: reference_losses(params).sum())(params)
  for name, grad in backward_pass(params).grads.items():
    np.testing.assert_allclose(grad, true[name], atol=1e-12, err_msg=name)


def test_each_term_equals_autodiff():
  """∂Lₜ/∂zᵣ is the derivative of one step's loss by what is added to another's z, through the bias;
  a step's share in W has the norm of their product."""
  params = CASE["vanilla(5)"].params()
  back = backward_pass(params)

  def pushed(ε):
    """The losses where ε [T, H] is added to z, as an input of its own."""
    wider = params | {"W": jnp.concatenate([params["W"], jnp.eye(H)])}
    return reference_losses(wider, jnp.concatenate([XS, ε], -1))

  true = jax.jacrev(pushed)(jnp.zeros((T, H)))  # [t, r, H]
  np.testing.assert_allclose(back.deltas, true.swapaxes(0, 1), atol=1e-12)
  outer = np.einsum("rd,rth->rtdh", XS, back.deltas)
  np.testing.assert_allclose(
    back.contribution_norms, np.linalg.norm(outer, axis=(2, 3)), atol=1e-12
  )
  assert not np.tril(back.contribution_norms, -1).any()


def test_lstm_memory_gradient_terms_equal_autodiff():
  """Each is the derivative of cₜ by cₜ₋₁ along its own way, others held; the sum is all."""
  params = CASE["lstm(5)"].params()
  hs, cs = gradient_flow.collect_carries(lstm(H), params, XS)
  terms = bptt.lstm_jacobian_terms(params, XS)
  gate = lambda h, t, k: (XS[t] @ params["W"] + params["b"] + h @ params["U"])[k * H : (k + 1) * H]
  σ = jax.nn.sigmoid

  def after(t, kept, forgetting, admitting, proposing):
    h = lambda c: σ(gate(hs[t - 1], t - 1, 3)) * jnp.tanh(c)  # hs[t - 1]: before the step before
    f, i = σ(gate(h(forgetting), t, 1)), σ(gate(h(admitting), t, 0))
    return f * kept + i * jnp.tanh(gate(h(proposing), t, 2))

  for t in range(1, T):
    c = cs[t]
    np.testing.assert_allclose(after(t, c, c, c, c), cs[t + 1], atol=1e-12)
    true = jax.jacrev(functools.partial(after, t), argnums=(0, 1, 2, 3))(c, c, c, c)
    for (name, term), one in zip(terms.items(), true, strict=True):
      np.testing.assert_allclose(term[t - 1], one, atol=1e-12, err_msg=f"{name} at {t}")
    step = lambda c, t: after(t, c, c, c, c)
    whole = sum(term[t - 1] for term in terms.values())
    np.testing.assert_allclose(whole, jax.jacrev(step)(c, t), atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_carries_equal_reference(case):
  """Those of the NumPy loops, each the end of a shorter sequence."""
  params = case.params()
  every = gradient_flow.collect_carries(case.cell, params, random_inputs())
  for t in range(T + 1):
    ends, _ = numpy_reference.unroll(
      case.reference, params, random_inputs()[:t], case.carry_sizes, None, False
    )
    for part, end in zip(every, ends, strict=True):
      np.testing.assert_allclose(part[t], end, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_gradient_flow_equals_jacobian_norm(case):
  """Of h at the end by each carry, computed at once."""
  params, every = case.params(), gradient_flow.collect_carries(case.cell, case.params(), XS)
  norms = gradient_flow.jacobian_norms(case.cell, params, XS)
  for r in range(T):
    end = lambda carry, xs: unroll(case.cell, params, xs, carry=carry, backend="scan")[0][0]
    jacobian = jax.jacrev(end)(tuple(part[r] for part in every), XS[r:])
    for norm, block in zip(norms, jacobian, strict=True):
      assert norm[r] == pytest.approx(np.linalg.norm(block) / np.sqrt(H), abs=1e-12)
  assert norms[0][T] == pytest.approx(1)


def test_orthogonal_recurrence_preserves_norm():
  """h ← h U with U orthogonal keeps every norm; with s U it is s^(T − r): vanishing, exploding."""
  U = np.linalg.qr(DRAW.normal(size=(H, H)))[0]
  cell = vanilla(H)._replace(step=lambda p, c, u: ((c[0] @ p["U"] + u,) * 1, u), pointwise=None)
  for s in (0.5, 1.0, 1.5):
    params = {"W": np.zeros((4, H)), "U": s * U, "b": np.zeros(H)}
    (norms,) = gradient_flow.jacobian_norms(cell, params, XS)
    np.testing.assert_allclose(norms, s ** np.arange(T, -1.0, -1), rtol=1e-12)
    assert gradient_flow.spectral_radii(params["U"])[0] == pytest.approx(s)


def test_spectral_radii_per_gate():
  """Each block by itself: a rotation by any angle, made longer, has the radius of that factor."""
  turn = np.array([[0.6, -0.8], [0.8, 0.6]])
  U = np.concatenate([0.5 * turn, 3 * turn], 1)
  own, projected = {"U": U, "W": U}, {"U": U, "P": turn}
  rest = {"outputs": {"kernel": U}, "attention": {"U": np.ones((4, 3))}, "backward": projected}
  found = gradient_flow.recurrent_spectral_radii({"encoder": {"forward": own}} | rest)
  name = "radius/encoder/forward/U"
  assert found == pytest.approx({f"{name}/0": 0.5, f"{name}/1": 3.0})


@pytest.mark.parametrize("name", ["vanilla(5)", "lstm(5)", "gru(5)", "leaky(5)"])
def test_gates_reproduce_next_carry(name):
  """From them and the carries before, `pointwise` makes the carries after."""
  cell, params = CASE[name].cell, CASE[name].params()
  every = gradient_flow.collect_carries(cell, params, random_inputs())
  before, after = (tuple(part[cut] for part in every) for cut in (slice(-1), slice(1, None)))
  made, _ = cell.pointwise(
    params, before, gradient_flow.gate_preactivations(cell, params, random_inputs())
  )
  for one, other in zip(made, after, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-12)


def test_gates_of_non_additive_cell_raise():
  with pytest.raises(ValueError, match=r"gru\(5, reset='before'\) does not add u and h U"):
    gradient_flow.gate_preactivations(gru(H, reset="before"), {}, XS)


def test_saturation_on_small_example():
  """σ(−3) = 0.047 is shut, σ(3) open, σ(±2) = 0.119, 0.881 neither."""
  shut, opened = gradient_flow.gate_saturation(np.array([[-3.0, 2.0], [-2.0, 3.0], [-9.0, 3.0]]))
  np.testing.assert_allclose(shut, [2 / 3, 0])
  np.testing.assert_allclose(opened, [0, 2 / 3])
