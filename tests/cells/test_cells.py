"""Each cell alone: its equations, its parameters, its start, its name, its types."""

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
  """Outputs and last carries are those of explicit NumPy loops."""
  params, xs = case.params(), random_inputs()
  ends, ys = numpy_reference.unroll(case.reference, params, xs, case.carry_sizes, lengths, reverse)
  carry, got = jit_unroll(case.cell, params, xs, lengths, reverse=reverse)
  np.testing.assert_allclose(got, ys, rtol=0, atol=1e-12)
  for c, end in zip(carry, ends, strict=True):
    np.testing.assert_allclose(c, end, rtol=0, atol=1e-12)


def dense_params(kernel, bias=None):
  return {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}


def flax_lstm_params(p):
  parts = {k: np.split(p[k], 4, -1) for k in "WUb"}
  return {f"i{g}": dense_params(W) for g, W in zip("ifgo", parts["W"])} | {
    f"h{g}": dense_params(U, b) for g, U, b in zip("ifgo", parts["U"], parts["b"])
  }


def flax_gru_params(p):
  parts = {k: np.split(p[k], 3, -1) for k in "WUb"}
  flax = {f"i{g}": dense_params(W, b) for g, W, b in zip("rzn", parts["W"], parts["b"])}
  return (
    flax
    | {f"h{g}": dense_params(U) for g, U in zip("rz", parts["U"])}
    | {"hn": dense_params(parts["U"][2], p["b_hn"])}
  )


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
  """With its weights, none of them zero, a cell of flax computes the same."""
  case = CASES[NAMES.index(name)]
  params, xs = case.params(), random_inputs()
  copied = {"params": {"cell": weights(params)}}
  ys = nn.RNN(module(H, dtype=float, param_dtype=float, name="cell"), time_major=True).apply(
    copied, jnp.asarray(xs)
  )
  np.testing.assert_allclose(unroll(case.cell, params, xs)[1], ys, rtol=0, atol=1e-12)


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
  """As many parameters as the textbooks count, for m inputs and n hidden units."""
  params = cell.init(jax.random.key(0), m)
  assert sum(p.size for p in params.values()) == COUNTS[cell]


@pytest.mark.parametrize("cell, place", [(lstm(H), 1), (lstm(H, coupled=True), 0)], ids=str)
def test_forget_bias_is_one(cell, place):
  """The bias of the forget gate starts at 1, in the parameter; all other biases at 0."""
  b = cell.init(jax.random.key(0), D)["b"].reshape(-1, H)
  np.testing.assert_array_equal(b, (np.arange(len(b)) == place)[:, None] * np.ones(H))
  np.testing.assert_array_equal(
    lstm(H, forget_bias=2.0).init(jax.random.key(0), D)["b"][H : 2 * H], 2 * np.ones(H)
  )


@pytest.mark.parametrize(
  "make, keeps, admits",
  [
    (lstm, 1, 0),
    (functools.partial(lstm, coupled=True), 0, None),
    (gru, 1, None),
    (functools.partial(gru, reset="before"), 1, None),
  ],
)
def test_chrono_init_spreads_time_constants(make, keeps, admits):
  """What they keep decays with time constants that are spread evenly over 2 to T steps."""
  n, T = 4000, 50
  biases = jax.jit(lambda key: make(n, chrono=T).init(key, 1)["b"])  # without U's decompositions
  b = biases(jax.random.key(0)).reshape(-1, n)
  times = np.sort(1 / (1 - jax.nn.sigmoid(b[keeps])))
  np.testing.assert_allclose(times, np.linspace(2, T, n), atol=0.03 * T)
  rest = np.delete(b, keeps, 0)
  if admits is not None:  # opens as rarely as the other closes
    np.testing.assert_array_equal(b[admits], -b[keeps])
    rest = np.delete(b, [keeps, admits], 0)
  assert not rest.any()


def test_chrono_below_two_steps_raises():
  for cell in (gru(H, chrono=1), lstm(H, chrono=0)):
    with pytest.raises(InvalidInputError, match="must be 2 steps or more; got"):
      cell.init(jax.random.key(0), D)


def test_recurrent_weights_are_orthogonal_at_init():
  """Each gate's U is orthogonal, and no two gates start alike."""
  U = lstm(H).init(jax.random.key(0), D)["U"].reshape(H, 4, H).swapaxes(0, 1)
  np.testing.assert_allclose(U @ U.mT, np.broadcast_to(np.eye(H), (4, H, H)), atol=1e-5)
  assert all(abs(U[i] - U[j]).max() > 0.1 for i in range(4) for j in range(i))


def test_relu_cell_is_identity_at_init():
  """A relu cell at its start passes a non-negative h on unchanged when x is 0."""
  cell = vanilla(H, activation="relu")
  h = jnp.arange(H, dtype=jnp.float32)
  (last,), _ = unroll(cell, cell.init(jax.random.key(0), D), jnp.zeros((9, D)), carry=(h,))
  np.testing.assert_array_equal(last, h)


def test_equal_arguments_return_same_cell():
  """Positional, keyword and default arguments make one and the same object."""
  assert gru(H) is gru(features=H) is gru(H, "after") is gru(reset="after", features=H)
  assert lstm(H) is lstm(H, peepholes=False) and hash(lstm(H)) == hash(lstm(features=H))
  assert gru(H) != gru(H, reset="before") and lstm(H) != lstm(H + 1)


def test_repr_is_constructor_call():
  """A cell prints as one would write it, defaults left out."""
  assert repr(lstm(256)) == str(lstm(features=256, output_tanh=True)) == "lstm(256)"
  assert repr(lstm(8, coupled=True, peepholes=True)) == "lstm(8, peepholes=True, coupled=True)"
  assert repr(gru(3, "before")) == "gru(3, reset='before')"
  assert repr(leaky(7)) == "leaky(7)"


@pytest.mark.parametrize("features", [0, -1, 2.0, "8", None])
def test_features_must_be_a_positive_integer(features):
  """The message names the factory and shows what came, also where 2 was asked for before."""
  assert lstm(2).features == 2
  with pytest.raises(ValueError, match=rf"^lstm needs a positive integer.*got {features!r}$"):
    lstm(features)


def test_unknown_options_raise():
  """A wrong option lists the right ones; a wrong name of an option is a TypeError."""
  with pytest.raises(ValueError, match=r"one of \['relu', 'tanh'\]; got 'elu'"):
    vanilla(H, activation="elu")
  with pytest.raises(ValueError, match="'before' or 'after'; got 'never'"):
    gru(H, reset="never")
  with pytest.raises(TypeError, match="peephole"):
    lstm(H, peephole=True)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_bfloat16_outputs_and_float32_memory(case):
  """bfloat16 in, bfloat16 out, with float32 parameters; memory cells stay float32, values agree."""
  params, xs = case.params(np.float32), random_inputs(dtype=np.float32)
  (h, *c), ys = jit_unroll(case.cell, params, jnp.asarray(xs, jnp.bfloat16), LENGTHS)
  assert ys.dtype == h.dtype == jnp.bfloat16
  assert all(m.dtype == jnp.float32 for m in c)
  _, exact = jit_unroll(case.cell, params, xs, LENGTHS)
  assert ys.shape == exact.shape == (len(xs), B, H)
  np.testing.assert_allclose(np.asarray(ys, np.float32), exact, rtol=0, atol=0.1)
