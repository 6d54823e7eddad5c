"""Linear recurrences: extreme gates over many steps, how an LRU starts, and who is refused."""

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
  """A cell's tick, float32 parameters, and inputs that drive gates from 1e-40 to 1 − 1e-40."""
  cell, tick = LINEAR_CELLS[name]
  params = CASES[NAMES.index(str(cell))].params(np.float32)
  return cell, tick, params, 30 * random_inputs(STEPS, (ROWS,), np.float32)


@pytest.mark.parametrize("backend", ["scan", "associative"])
@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_extreme_gates_over_long_sequence(name, backend):
  """In float32 every output is that of the paper in float64, to a few of its last bits."""
  cell, tick, params, xs = extreme_gate_case(name)
  exact = {name: np.float64(p) for name, p in params.items()}
  with np.errstate(over="ignore"):  # σ as the paper writes it, of numbers far below zero
    _, ys = numpy_reference.unroll(tick, exact, xs, (H, H))
  gates = numpy_reference.σ(np.clip(xs @ exact["W"] + exact["b"], -500, 500))[..., :H]
  assert gates.min() < 1e-40 and (1 - gates).min() == 0
  _, got = unroll(cell, params, xs, backend=backend)
  np.testing.assert_allclose(got, ys, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_gradients_with_extreme_gates(name):
  """They are finite in float32, and those of the plain loop in float64."""
  cell, _, params, xs = extreme_gate_case(name)
  weights = np.random.default_rng(3).normal(size=(STEPS, ROWS, H))  # not of ys, as sin would be

  def slopes(backend, dtype):
    w = jnp.asarray(weights, dtype)
    run = lambda params, xs: (w * unroll(cell, params, xs, backend=backend)[1]).mean()
    return jax.grad(run, (0, 1))(*jax.tree.map(lambda p: jnp.asarray(p, dtype), (params, xs)))

  got = slopes("associative", jnp.float32)
  with jax.enable_x64(True):
    expected = slopes("scan", jnp.float64)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", LINEAR_CELLS)
def test_state_is_bounded_by_candidates(name):
  """A convex mean of positive numbers: h is positive, and no larger than the largest of them."""
  cell, _, params, xs = extreme_gate_case(name)
  _, ys = unroll(cell, params, np.float64(xs))
  candidates = (np.float64(xs) @ params["W"] + params["b"])[..., -H:]
  assert (ys >= 0).all() and ys.max() <= 0.5 + candidates.max() and (ys[-1] > 0).all()


@pytest.mark.parametrize("backend", ["scan", "deferred", "associative"])
def test_slow_gate_accumulates_in_bfloat16(backend):
  """h climbs to its candidate by steps that bfloat16 beside h would not hold."""
  cell, T = mingru(1), 6000
  params = {"W": jnp.zeros((1, 2)), "b": jnp.array([-7.0, 0.5])}  # 1 − σ(−7) = 0.9991, g = 1
  _, ys = unroll(cell, params, jnp.zeros((T, 1, 1), jnp.bfloat16), backend=backend)
  assert float(ys[-1, 0, 0]) == pytest.approx(
    1 - (1 - float(numpy_reference.σ(-7.0))) ** T, abs=0.01
  )


def test_lru_eigenvalues_at_init():
  """inner ≤ |λ| ≤ outer, spread evenly over the area, angles below phase; white noise in gives
  states of variance one."""
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
  """λ near the unit circle is not rounded to eight bits: the inputs are."""
  cell = lru(16, r_min=0.99, r_max=0.999)
  params, xs = cell.init(jax.random.key(0), 4), jax.random.normal(jax.random.key(1), (400, 2, 4))
  true, found = (
    unroll(cell, params, xs.astype(dtype), backend=backend)[1]
    for dtype in (jnp.float32, jnp.bfloat16)
  )
  assert found.dtype == jnp.bfloat16
  assert jnp.linalg.norm(found - true) < 0.01 * jnp.linalg.norm(true)


def test_lru_invalid_radii_raise():
  with pytest.raises(ValueError, match=r"0 <= inner < outer <= 1; got 0.9 and 0.5"):
    lru(H, r_min=0.9, r_max=0.5)


def test_associative_backend_requires_linear_cell():
  """The others are told why, by name; a user's linear cell is none of them."""
  params, xs = gru(H).init(jax.random.key(0), D), random_inputs(dtype=np.float32)
  with pytest.raises(ValueError, match=r"'associative' cannot run .* gru\(5\) is none; backend='s"):
    unroll(gru(H), params, xs, backend="associative")
  assert not backend_status(quasi(H), quasi(H).init(jax.random.key(0), D), xs)["associative"]
