"""Linear recurrences: extreme gates over many steps, bfloat16, and initialization of an LRU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import backend_status, gru, lru, mingru, minlstm, unroll
from tests import numpy_reference
from tests.cell_cases import CASES, NAMES, D, H, quasi, random_inputs

STEPS, ROWS = 2000, 2
LINEAR_CELLS = {
  "mingru": (mingru(H), numpy_reference.mingru),
  "minlstm": (minlstm(H), numpy_reference.minlstm),
}


def extreme_gate_case(name):
  """Return a cell, its reference, float32 parameters, and inputs with gates from 1e-40 to 1."""
  cell, reference = LINEAR_CELLS[name]
  params = CASES[NAMES.index(str(cell))].params(np.float32)
  return cell, reference, params, 30 * random_inputs(STEPS, (ROWS,), np.float32)


@pytest.mark.parametrize("backend", ["scan", "associative"])
@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_extreme_gates_over_long_sequence(name, backend):
  """Outputs in float32 equal those of the float64 reference up to rounding."""
  cell, reference, params, xs = extreme_gate_case(name)
  wide_params = {name: np.float64(p) for name, p in params.items()}
  with np.errstate(over="ignore"):  # in exp(−z) of σ as the paper writes it
    _, expected = numpy_reference.unroll(reference, wide_params, xs, (H, H))
  z = xs @ wide_params["W"] + wide_params["b"]
  gates = numpy_reference.σ(np.clip(z, -500, 500))[..., :H]
  assert gates.min() < 1e-40 and (1 - gates).min() == 0
  _, ys = unroll(cell, params, xs, backend=backend)
  np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_gradients_with_extreme_gates(name):
  """Gradients in float32 are finite and equal those of the reference loop in float64."""
  cell, _, params, xs = extreme_gate_case(name)
  # A loss that is linear in ys: its gradients do not depend on rounding errors of ys.
  weights = np.random.default_rng(3).normal(size=(STEPS, ROWS, H))

  def gradients(backend, dtype):
    def loss(params, xs):
      ys = unroll(cell, params, xs, backend=backend)[1]
      return (jnp.asarray(weights, dtype) * ys).mean()

    return jax.grad(loss, (0, 1))(*jax.tree.map(lambda p: jnp.asarray(p, dtype), (params, xs)))

  actual = gradients("associative", jnp.float32)
  with jax.enable_x64(True):
    expected = gradients("scan", jnp.float64)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_state_is_bounded_by_candidates(name):
  """h is a convex combination of positive candidates: positive and at most their maximum."""
  cell, _, params, xs = extreme_gate_case(name)
  _, ys = unroll(cell, params, np.float64(xs))
  candidates = (np.float64(xs) @ params["W"] + params["b"])[..., -H:]
  assert (ys >= 0).all() and ys.max() <= 0.5 + candidates.max() and (ys[-1] > 0).all()


@pytest.mark.parametrize("backend", ["scan", "deferred", "associative"])
def test_slow_gate_accumulates_in_bfloat16(backend):
  """h approaches its candidate by increments that a bfloat16 state would round to 0."""
  cell, T = mingru(1), 6000
  params = {"W": jnp.zeros((1, 2)), "b": jnp.array([-7.0, 0.5])}  # 1 − σ(−7) = 0.9991, g = 1
  _, ys = unroll(cell, params, jnp.zeros((T, 1, 1), jnp.bfloat16), backend=backend)
  assert float(ys[-1, 0, 0]) == pytest.approx(
    1 - (1 - float(numpy_reference.σ(-7.0))) ** T, abs=0.01
  )


def test_lru_eigenvalues_at_init():
  """λ is uniform over the ring, with phases below max_phase; white noise gives states of variance
  one."""
  cell = lru(3, num_states=2000, r_min=0.6, r_max=0.9, max_phase=1.0)
  params = cell.init(jax.random.key(0), 50)
  λ, _ = cell.coefficients(params, jnp.zeros(2 * 2000 + 3))
  radius, angle = np.abs(λ), np.angle(λ)
  assert 0.6 <= radius.min() < 0.61 and 0.89 < radius.max() <= 0.9
  assert 0 <= angle.min() < 0.01 and 0.99 < angle.max() <= 1
  assert abs((radius < np.sqrt((0.6**2 + 0.9**2) / 2)).mean() - 0.5) < 0.05
  xs = np.random.default_rng(0).normal(size=(100, 20, 50)).astype(np.float32)
  (_, re, im), _ = unroll(cell, params, xs)
  assert abs((re**2 + im**2).mean() - 1) < 0.05


@pytest.mark.parametrize("backend", ["scan", "deferred", "associative"])
def test_lru_bfloat16_close_to_float32(backend):
  """Only the inputs are rounded to bfloat16, not the eigenvalues near the unit circle."""
  cell = lru(16, r_min=0.99, r_max=0.999)
  params, xs = cell.init(jax.random.key(0), 4), jax.random.normal(jax.random.key(1), (400, 2, 4))
  wide, narrow = (
    unroll(cell, params, xs.astype(dtype), backend=backend)[1]
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  assert narrow.dtype == jnp.bfloat16
  assert jnp.linalg.norm(narrow - wide) < 0.01 * jnp.linalg.norm(wide)


def test_lru_invalid_radii_raise():
  with pytest.raises(ValueError, match=r"0 <= r_min < r_max <= 1; got 0.9 and 0.5"):
    lru(H, r_min=0.9, r_max=0.5)


def test_associative_backend_requires_linear_cell():
  """Other cells raise an error with the reason; a user's linear recurrence is supported."""
  params, xs = gru(H).init(jax.random.key(0), D), random_inputs(dtype=np.float32)
  match = r"'associative' cannot run .* gru\(5\) is not made by .*; backend='scan'"
  with pytest.raises(ValueError, match=match):
    unroll(gru(H), params, xs, backend="associative")
  assert not backend_status(quasi(H), quasi(H).init(jax.random.key(0), D), xs)["associative"]
