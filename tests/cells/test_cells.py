"""The cells of the library: equations, parameters, initialization, names and dtypes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import gru, lstm, unroll, vanilla
from rnnjax.types import InvalidInputError
from tests import numpy_reference
from tests.cell_cases import CASES, LENGTHS, NAMES, B, D, H, jit_unroll, leaky, random_inputs


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_outputs_equal_numpy_reference(case, reverse, lengths):
  """Outputs and final carries equal those of explicit NumPy loops."""
  params, xs = case.params(), random_inputs()
  expected_carry, expected = numpy_reference.unroll(
    case.reference, params, xs, case.carry_sizes, lengths, reverse
  )
  carry, ys = jit_unroll(case.cell, params, xs, lengths, reverse=reverse)
  np.testing.assert_allclose(ys, expected, rtol=0, atol=1e-12)
  for c, expected_c in zip(carry, expected_carry, strict=True):
    np.testing.assert_allclose(c, expected_c, rtol=0, atol=1e-12)


def dense_params(kernel, bias=None):
  return {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}


def flax_lstm_params(p):
  Ws, Us, bs = (np.split(p[name], 4, -1) for name in "WUb")
  input_params = {f"i{gate}": dense_params(W) for gate, W in zip("ifgo", Ws)}
  return input_params | {f"h{gate}": dense_params(U, b) for gate, U, b in zip("ifgo", Us, bs)}


def flax_gru_params(p):
  Ws, Us, bs = (np.split(p[name], 3, -1) for name in "WUb")
  input_params = {f"i{gate}": dense_params(W, b) for gate, W, b in zip("rzn", Ws, bs)}
  hidden_params = {f"h{gate}": dense_params(U) for gate, U in zip("rz", Us)}
  return input_params | hidden_params | {"hn": dense_params(Us[2], p["b_hn"])}


def flax_rnn_params(p):
  return {"i": dense_params(p["W"], p["b"]), "h": dense_params(p["U"])}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
  "name, module, weights",
  [
    ("vanilla(5)", nn.SimpleCell, flax_rnn_params),
    ("lstm(5)", nn.OptimizedLSTMCell, flax_lstm_params),
    ("gru(5)", nn.GRUCell, flax_gru_params),
  ],
)
def test_equals_flax(name, module, weights):
  """With the same non-zero weights, the cell of flax gives the same outputs."""
  case = CASES[NAMES.index(name)]
  params, xs = case.params(), random_inputs()
  rnn = nn.RNN(module(H, dtype=float, param_dtype=float, name="cell"), time_major=True)
  expected = rnn.apply({"params": {"cell": weights(params)}}, jnp.asarray(xs))
  np.testing.assert_allclose(unroll(case.cell, params, xs)[1], expected, rtol=0, atol=1e-12)


m, n, C = 7, 5, 3
COUNTS = {
  vanilla(n): m * n + n * n + n,
  lstm(n): 4 * (m * n + n * n + n),
  lstm(n, coupled=True): 3 * (m * n + n * n + n),
  lstm(n, peepholes=True): 4 * (m * n + n * n + n) + 3 * n,
  lstm(n, cell_size=C): 4 * (m * C + n * C + C) + C * n,
  gru(n, reset="before"): 3 * (m * n + n * n + n),
  gru(n): 3 * (m * n + n * n + n) + n,
}


@pytest.mark.parametrize("cell", COUNTS, ids=str)
def test_parameter_counts(cell):
  """The numbers of parameters are those of textbooks, for m inputs and n hidden units."""
  params = cell.init(jax.random.key(0), m)
  assert sum(p.size for p in params.values()) == COUNTS[cell]


@pytest.mark.parametrize("cell, gate", [(lstm(H), 1), (lstm(H, coupled=True), 0)], ids=str)
def test_forget_bias_is_one(cell, gate):
  """The parameter b is initialized to 1 for the forget gate and to 0 for all others."""
  b = cell.init(jax.random.key(0), D)["b"].reshape(-1, H)
  np.testing.assert_array_equal(b, (np.arange(len(b)) == gate)[:, None] * np.ones(H))
  b = lstm(H, forget_bias=2.0).init(jax.random.key(0), D)["b"]
  np.testing.assert_array_equal(b[H : 2 * H], 2 * np.ones(H))


@pytest.mark.parametrize(
  "make_cell, forget, input_gate",
  [
    (lstm, 1, 0),
    (functools.partial(lstm, coupled=True), 0, None),
    (gru, 1, None),
    (functools.partial(gru, reset="before"), 1, None),
  ],
)
def test_chrono_init_spreads_time_constants(make_cell, forget, input_gate):
  """The time constants of the forget gate are uniform between 2 and T steps."""
  n, T = 4000, 50
  # jit removes the orthogonal initialization of U, which takes long at this size.
  init_bias = jax.jit(lambda key: make_cell(n, chrono=T).init(key, 1)["b"])
  b = init_bias(jax.random.key(0)).reshape(-1, n)
  time_constants = np.sort(1 / (1 - jax.nn.sigmoid(b[forget])))
  np.testing.assert_allclose(time_constants, np.linspace(2, T, n), atol=0.03 * T)
  other_biases = np.delete(b, forget, 0)
  if input_gate is not None:
    np.testing.assert_array_equal(b[input_gate], -b[forget])
    other_biases = np.delete(b, [forget, input_gate], 0)
  assert not other_biases.any()


def test_chrono_below_two_steps_raises():
  for cell in (gru(H, chrono=1), lstm(H, chrono=0)):
    with pytest.raises(InvalidInputError, match="must be 2 steps or more; got"):
      cell.init(jax.random.key(0), D)


def test_recurrent_weights_are_orthogonal_at_init():
  """Each gate's U is orthogonal, and those of two gates differ."""
  U = lstm(H).init(jax.random.key(0), D)["U"].reshape(H, 4, H).swapaxes(0, 1)
  np.testing.assert_allclose(U @ U.mT, np.broadcast_to(np.eye(H), (4, H, H)), atol=1e-5)
  assert all(abs(U[i] - U[j]).max() > 0.1 for i in range(4) for j in range(i))


def test_relu_cell_is_identity_at_init():
  """A newly initialized relu cell leaves a non-negative h unchanged if x is 0."""
  cell = vanilla(H, activation="relu")
  h = jnp.arange(H, dtype=jnp.float32)
  (final_h,), _ = unroll(cell, cell.init(jax.random.key(0), D), jnp.zeros((9, D)), carry=(h,))
  np.testing.assert_array_equal(final_h, h)


def test_equal_arguments_return_same_cell():
  """Positional, keyword and default arguments return the same object."""
  assert gru(H) is gru(features=H) is gru(H, "after") is gru(reset="after", features=H)
  assert lstm(H) is lstm(H, peepholes=False) and hash(lstm(H)) == hash(lstm(features=H))
  assert gru(H) != gru(H, reset="before") and lstm(H) != lstm(H + 1)


def test_repr_is_constructor_call():
  """A cell is printed as its constructor call without default arguments."""
  assert repr(lstm(256)) == str(lstm(features=256, output_tanh=True)) == "lstm(256)"
  assert repr(lstm(8, coupled=True, peepholes=True)) == "lstm(8, peepholes=True, coupled=True)"
  assert repr(gru(3, "before")) == "gru(3, reset='before')"
  assert repr(leaky(7)) == "leaky(7)"


@pytest.mark.parametrize("features", [0, -1, 2.0, "8", None])
def test_features_must_be_a_positive_integer(features):
  """The message has the factory and the value; 2.0 raises although lstm(2) is cached."""
  assert lstm(2).features == 2
  with pytest.raises(ValueError, match=rf"^lstm needs a positive integer.*got {features!r}$"):
    lstm(features)


def test_unknown_options_raise():
  """The message for an invalid value lists the valid ones; an unknown name is a TypeError."""
  with pytest.raises(ValueError, match=r"one of \['relu', 'tanh'\]; got 'elu'"):
    vanilla(H, activation="elu")
  with pytest.raises(ValueError, match="'before' or 'after'; got 'never'"):
    gru(H, reset="never")
  with pytest.raises(TypeError, match="peephole"):
    lstm(H, peephole=True)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_bfloat16_outputs_and_float32_carry(case):
  """bfloat16 inputs and float32 parameters give bfloat16 outputs; the other carries are float32."""
  params, xs = case.params(np.float32), random_inputs(dtype=np.float32)
  (h, *c), ys = jit_unroll(case.cell, params, jnp.asarray(xs, jnp.bfloat16), LENGTHS)
  assert ys.dtype == h.dtype == jnp.bfloat16
  assert all(part.dtype == jnp.float32 for part in c)
  _, expected = jit_unroll(case.cell, params, xs, LENGTHS)
  assert ys.shape == expected.shape == (len(xs), B, H)
  np.testing.assert_allclose(np.asarray(ys, np.float32), expected, rtol=0, atol=0.1)
