"""Tests of the cuDNN wrapper, with jax's reference LSTM in place of cuDNN's: no GPU is needed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from experiments.benchmarks import cudnn
from rnnjax import gru, lstm
from rnnjax.backends.scan import scan
from tests.cell_cases import FORMS, LENGTHS, D, H, T, random_inputs

CASE = FORMS[0]


def reference_lstm(x, h, c, weights, lengths, D, H, layers, dropout, bidirectional):
  """Compute `jax.experimental.rnn.lstm` by jax's reference implementation, `lstm_ref`."""
  parts = rnn.unpack_lstm_weights(weights, D, H, layers, bidirectional)
  with jax.numpy_rank_promotion("allow"):
    return rnn.lstm_ref(x, h, c, *parts, lengths, D, H, layers, dropout, bidirectional)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
def test_outputs_and_gradients_equal_scan(monkeypatch, reverse, lengths):
  """Results and gradients equal those of `scan`, also in reverse and for a row of length 0."""
  monkeypatch.setattr(rnn, "lstm", reference_lstm)
  mask = None if lengths is None else jnp.arange(T)[:, None] < lengths[None]
  xs, carry = jnp.asarray(random_inputs(dtype=np.float32)), CASE.carry(dtype=np.float32)
  if mask is not None:
    xs = jnp.where(mask[..., None], xs, 0)
  carry = tuple(map(jnp.asarray, carry))

  def outputs_and_gradients(run):
    def loss(params, xs, carry):
      carry, ys = run(lstm(H), params, xs, mask, carry, reverse)
      return jnp.sin(ys).sum() + sum(jnp.cos(c).sum() for c in carry), (carry, ys)

    value_and_grad = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    return value_and_grad(CASE.params(np.float32), xs, carry)

  actual, expected = map(outputs_and_gradients, (cudnn.cudnn, scan))
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1, abs(b).max()))


def test_unavailable_if_result_differs_from_scan(monkeypatch):
  """On a GPU cuDNN is compared with `scan`, also inside jit; if they differ, it is unavailable."""
  xs = jnp.asarray(random_inputs(dtype=np.float32))
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  doubled = lambda x, *rest: reference_lstm(2 * x, *rest)
  for run, expected in (
    (reference_lstm, ""),
    (doubled, "does not agree with the loop: gradients differ by"),
  ):
    monkeypatch.setattr(rnn, "lstm", run)
    cudnn.max_gradient_error.cache_clear()
    reasons = []

    @jax.jit
    def ask_inside_jit(xs, reasons=reasons):
      reasons.append(cudnn.why_unavailable(lstm(H), xs))
      return xs

    ask_inside_jit(xs)
    assert expected in reasons[0] and bool(expected) == bool(reasons[0])
  cudnn.max_gradient_error.cache_clear()


def test_unavailable_for_other_cells_dtypes_and_devices():
  xs = jnp.asarray(random_inputs(dtype=np.float32))
  assert "the plain LSTM only; got gru(5)" in cudnn.why_unavailable(gru(H), xs)
  assert "in float32; got bfloat16" in cudnn.why_unavailable(lstm(H), xs.astype(jnp.bfloat16))
  assert "NVIDIA GPU; this is cpu" in cudnn.why_unavailable(lstm(H), xs)


def test_packed_weights_unpack_to_params():
  """jax unpacks them to Wᵀ, Uᵀ, b and a second bias of zeros."""
  params = CASE.params(np.float32)
  W, U, b, zero = rnn.unpack_lstm_weights(cudnn.pack_weights(params), D, H, 1, False)
  np.testing.assert_array_equal(W[0].T, params["W"])
  np.testing.assert_array_equal(U[0].T, params["U"])
  np.testing.assert_array_equal(b[0], params["b"])
  assert not zero[0].any()


def test_flip_reverses_unmasked_steps():
  """Unmasked steps are reversed, padding is unchanged; flipping twice returns the input."""
  a = jnp.arange(T)[:, None, None] + 10.0 * jnp.arange(3)[None, :, None]
  flipped = cudnn.flip_sequences(a, jnp.asarray(LENGTHS))
  assert flipped[:, 2, 0].tolist() == [22, 21, 20, 23, 24, 25]
  np.testing.assert_array_equal(cudnn.flip_sequences(flipped, jnp.asarray(LENGTHS)), a)
