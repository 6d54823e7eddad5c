"""What is laid around cuDNN's LSTM, with jax's own reference in its place: no GPU is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from experiments.benchmarks import cudnn
from rnnjax import lstm
from rnnjax.backends.scan import scan
from tests.cell_cases import FORMS, LENGTHS, D, H, T, random_inputs

CASE = FORMS[0]


def reference_lstm(x, h, c, weights, lengths, D, H, layers, dropout, bidirectional):
  """`jax.experimental.rnn.lstm`, which is cuDNN's, as jax tests it."""
  parts = rnn.unpack_lstm_weights(weights, D, H, layers, bidirectional)
  with jax.numpy_rank_promotion("allow"):
    return rnn.lstm_ref(x, h, c, *parts, lengths, D, H, layers, dropout, bidirectional)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_outputs_and_gradients_equal_scan(monkeypatch, reverse, lengths):
  """Weights in cuDNN's order, rows flipped by their lengths, and rows without a step."""
  monkeypatch.setattr(rnn, "lstm", reference_lstm)
  alive = None if lengths is None else jnp.arange(T)[:, None] < lengths[None]
  xs, carry = jnp.asarray(random_inputs(dtype=np.float32)), CASE.carry(dtype=np.float32)
  if alive is not None:
    xs = jnp.where(alive[..., None], xs, 0)
  carry = tuple(map(jnp.asarray, carry))

  def loss(run):
    def of(params, xs, carry):
      carry, ys = run(lstm(H), params, xs, alive, carry, reverse)
      return jnp.sin(ys).sum() + sum(jnp.cos(c).sum() for c in carry), (carry, ys)

    grad = jax.jit(jax.value_and_grad(of, (0, 1, 2), has_aux=True))
    return grad(CASE.params(np.float32), xs, carry)

  one, two = map(loss, (cudnn.cudnn, scan))
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1, abs(b).max()))


def test_unavailable_if_result_differs_from_scan(monkeypatch):
  """On a GPU a small loop decides, inside jit, too; what differs from the loop is refused."""
  xs, params = jnp.asarray(random_inputs(dtype=np.float32)), CASE.params(np.float32)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  doubled = lambda x, *rest: reference_lstm(2 * x, *rest)
  for run, expected in ((reference_lstm, ""), (doubled, "is not the loop: gradients differ by")):
    monkeypatch.setattr(rnn, "lstm", run)
    cudnn.max_gradient_error.cache_clear()
    why_not = []
    jax.jit(lambda xs: why_not.append(cudnn.why_unavailable(lstm(H), params, xs, ())) or xs)(xs)  # noqa: B023
    assert expected in why_not[0] and bool(expected) == bool(why_not[0])
  cudnn.max_gradient_error.cache_clear()


def test_packed_weights_unpack_to_params():
  """As jax unpacks them: Wᵀ, Uᵀ, b, and zeros for the bias that there is not."""
  params = CASE.params(np.float32)
  W, U, b, zero = rnn.unpack_lstm_weights(cudnn.pack_weights(params), D, H, 1, False)
  np.testing.assert_array_equal(W[0].T, params["W"])
  np.testing.assert_array_equal(U[0].T, params["U"])
  np.testing.assert_array_equal(b[0], params["b"])
  assert not zero[0].any()


def test_flip_reverses_unmasked_steps():
  """Living steps are turned around, the others stay; twice is nothing."""
  a = jnp.arange(T)[:, None, None] + 10.0 * jnp.arange(3)[None, :, None]
  once = cudnn.flip_sequences(a, jnp.asarray(LENGTHS))
  assert once[:, 2, 0].tolist() == [22, 21, 20, 23, 24, 25]
  np.testing.assert_array_equal(cudnn.flip_sequences(once, jnp.asarray(LENGTHS)), a)
