"""Newton over time: it finds what the loop finds, says how, and hands over where it cannot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import backend_status, gru, lstm, unroll, vanilla
from rnnjax.backends.linear_scan import parallel_linear_scan, sequential_linear_scan
from rnnjax.backends.newton.solver import NewtonOptions, solve
from tests.cell_cases import CASES, LENGTHS, NAMES, random_inputs

pytestmark = pytest.mark.usefixtures("float64")
H, D = 4, 3
FULL, DIAGONAL = NewtonOptions(), NewtonOptions("diagonal")


def random_problem(cell, T, gain=1.0, batch=(2,)):
  """Parameters with entries of U of that size over √H, and inputs."""
  draw = np.random.default_rng(0)
  params = jax.tree.map(jnp.float64, cell.init(jax.random.key(0), D))
  params["U"] = gain * draw.normal(0, H**-0.5, params["U"].shape)
  return params, jnp.asarray(draw.normal(size=(T, *batch, D)))


@functools.partial(jax.jit, static_argnames=("cell", "how", "reverse", "early"))
def outputs_and_gradients(cell, params, xs, how=None, carry=None, reverse=False, early=None):
  """(ys, last carry, found) and gradients of a sum over ys[:early]; of scan where how is None."""

  def loss(params, xs, carry):
    carry = cell.initial_carry(xs[0]) if carry is None else carry
    if how is None:
      end, ys = unroll(cell, params, xs, carry=carry, reverse=reverse, backend="scan")
      found = None
    else:
      end, ys, found = solve(cell, params, xs, None, carry, reverse, how)
    late = 0 if early else sum(jnp.cos(c).sum() for c in end)
    return jnp.sin(ys[:early]).sum() + late, (ys, end, found)

  (_, out), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, xs, carry)
  return out, grads


def assert_trees_close(got, expected, precision=1e-12):
  """Two trees agree, relative to the largest number of each leaf."""
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=precision * max(1, abs(b).max()))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("how, most", [(FULL, 8), (DIAGONAL, 60)], ids=["full", "diagonal"])
@pytest.mark.parametrize("cell", [gru(H), lstm(H)], ids=str)
def test_contractive_sequence_converges_in_few_iterations(cell, how, most, reverse):
  """2,000 steps take a handful of iterations, more with diagonals; all is equal to the loop's."""
  params, xs = random_problem(cell, 2000, gain=0.5)
  (ys, end, found), grads = outputs_and_gradients(cell, params, xs, how, reverse=reverse)
  (expected, last, _), true = outputs_and_gradients(cell, params, xs, reverse=reverse)
  assert found.converged and 0 < found.num_iterations <= most
  assert_trees_close((ys, end), (expected, last))
  assert_trees_close(grads, true, 1e-10)


@pytest.mark.parametrize(
  "how",
  [FULL, DIAGONAL, NewtonOptions(damping=0.5), NewtonOptions("diagonal", 0.9)],
  ids=["full", "diagonal", "damped", "damped diagonal"],
)
@pytest.mark.parametrize("T", range(1, 9))
def test_converges_within_number_of_steps(T, how):
  """After k iterations the first k steps are exact, whatever stands for the Jacobians."""
  cell = vanilla(H)
  params, xs = random_problem(cell, T, gain=3.0)
  _, ys, found = solve(cell, params, xs, options=how)
  assert found.converged and found.num_iterations <= T
  assert_trees_close(ys, unroll(cell, params, xs, backend="scan")[1])


@pytest.mark.parametrize("how", [FULL, DIAGONAL, NewtonOptions(damping=0.3)], ids=str)
def test_chaotic_sequence_falls_back_to_scan(how):
  """It says that it has not converged; each step follows from the one before, as in a loop."""
  cell = vanilla(H)
  params, xs = random_problem(cell, 300, gain=6.0)
  _, ys, found = jax.jit(functools.partial(solve, cell, options=how))(params, xs)
  assert not found.converged and found.residual > 1e-12
  zero = jnp.zeros_like(ys[:1])
  before = jnp.concatenate([zero, ys[:-1]])
  _, after = cell.step(params, (before,), cell.project(params, xs))
  assert_trees_close(ys, after, 1e-14)


def test_overflowing_jacobian_products_keep_early_gradients_finite():
  """Chaos has products of Jacobians beyond all numbers; early outputs keep their gradients."""
  cell = vanilla(H)
  params, xs = random_problem(cell, 2000, gain=6.0)
  (ys, _, found), grads = outputs_and_gradients(cell, params, xs, FULL, early=5)
  (expected, _, _), true = outputs_and_gradients(cell, params, xs, early=5)
  assert np.isinf(found.residual) and not found.converged
  assert_trees_close((ys[:5], grads), (expected[:5], true))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("cell", [gru(H), lstm(H)], ids=str)
def test_iteration_limit_falls_back_to_scan(cell):
  """It hands over to the loop, whose outputs and gradients they then are."""
  params, xs = random_problem(cell, 50)
  (ys, end, found), grads = outputs_and_gradients(cell, params, xs, NewtonOptions(max_iterations=1))
  (expected, last, _), true = outputs_and_gradients(cell, params, xs)
  assert not found.converged and found.num_iterations == 1
  assert_trees_close((ys, end, grads), (expected, last, true))


def test_vmapped_rows_converge_independently():
  """Under vmap each row is found, or not, by itself."""
  cell = vanilla(H)
  params, xs = random_problem(cell, 300, batch=())
  gains = jnp.array([0.5, 6.0])
  run = lambda gain: solve(cell, params | {"U": gain * params["U"]}, xs)
  _, ys, found = jax.vmap(run)(gains)
  np.testing.assert_array_equal(found.converged, [True, False])
  expected = unroll(cell, params | {"U": 0.5 * params["U"]}, xs, backend="scan")[1]
  assert_trees_close(ys[0], expected)


def test_second_derivatives_equal_scan():
  """A gradient can be differentiated again: products with the Hessian are those of scan."""
  cell = gru(H)
  params, xs = random_problem(cell, 12)

  def product(backend):
    loss = lambda xs: jnp.sin(unroll(cell, params, xs, backend=backend)[1]).sum()
    return jax.grad(lambda xs: (jax.grad(loss)(xs) * jnp.cos(xs)).sum())(xs)

  assert_trees_close(product("newton"), product("scan"))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_linear_recurrence_equals_numpy_loop(reverse):
  """All at once or in turn, matrices or diagonals: a loop in NumPy."""
  draw = np.random.default_rng(0)
  J, r = draw.normal(size=(11, 2, 3, 3)), draw.normal(size=(11, 2, 3))
  for matrices, way in ((J, J), (J * np.eye(3), J.diagonal(axis1=-2, axis2=-1))):
    δ, expected = np.zeros((2, 3)), np.zeros_like(r)
    for t in reversed(range(11)) if reverse else range(11):
      δ = np.einsum("bij,bj->bi", matrices[t], δ) + r[t]
      expected[t] = δ
    for solver in (parallel_linear_scan, sequential_linear_scan):
      assert_trees_close(solver(jnp.asarray(way), jnp.asarray(r), reverse), expected)


def test_large_jacobians_are_unavailable():
  """Jacobians of 2 GiB and more are not made; the message says how many GiB, and what runs it."""
  xs = jax.ShapeDtypeStruct((1000, 2, 8), jnp.float32)
  carry = lambda n: (jax.ShapeDtypeStruct((2, n), jnp.float32),) * 2
  assert not backend_status(lstm(64), {}, xs, carry(64))["newton"]
  why = backend_status(lstm(512), {}, xs, carry(512))["newton"]
  assert "[1024, 1024]" in why and "7.8 GiB" in why and "'scan'" in why


@pytest.mark.parametrize(
  "how", [NewtonOptions("half"), NewtonOptions(damping=1.0), NewtonOptions(max_iterations=-1)]
)
def test_invalid_options_raise(how):
  with pytest.raises(
    ValueError, match=r"jacobian must be one of .* damping in \[0, 1\).* got Newton"
  ):
    solve(gru(H), *random_problem(gru(H), 3), options=how)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_cell_converges(case):
  """Ragged rows, a given carry, reverse: the loop is not needed for any of our cells."""
  xs = jnp.asarray(random_inputs())
  alive = np.arange(len(xs))[:, None] < LENGTHS
  _, _, found = solve(case.cell, case.params(), xs, alive, case.carry(), reverse=True)
  assert found.converged and found.num_iterations <= len(xs)


def test_gradients_with_overflowing_jacobian_products():
  """A guess can be right at once, and only the way back would overflow."""
  cell = vanilla(2)
  params = {"W": jnp.eye(2), "U": 30 * jnp.eye(2), "b": jnp.zeros(2)}
  first = lambda backend: lambda xs: unroll(cell, params, xs, backend=backend)[1][0].sum()
  xs = jnp.zeros((1000, 1, 2))
  found, true = (jax.grad(first(backend))(xs) for backend in ("newton", "scan"))
  np.testing.assert_array_equal(found, true)
