"""Tests of Newton's method over time: results, convergence, and the fallback to the loop."""

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
  """Return parameters in which U has standard deviation gain/√H, and inputs."""
  draw = np.random.default_rng(0)
  params = jax.tree.map(jnp.float64, cell.init(jax.random.key(0), D))
  params["U"] = gain * draw.normal(0, H**-0.5, params["U"].shape)
  return params, jnp.asarray(draw.normal(size=(T, *batch, D)))


@functools.partial(jax.jit, static_argnames=("cell", "options", "reverse", "early"))
def outputs_and_gradients(cell, params, xs, options=None, carry=None, reverse=False, early=None):
  """Return (ys, final carry, info) of Newton's method, or of scan without options, and gradients.

  The loss depends on ys[:early] only; on all outputs and the final carry if `early` is None.
  """

  def loss(params, xs, carry):
    carry = cell.initial_carry(xs[0]) if carry is None else carry
    if options is None:
      end, ys = unroll(cell, params, xs, carry=carry, reverse=reverse, backend="scan")
      info = None
    else:
      end, ys, info = solve(cell, params, xs, None, carry, reverse, options)
    carry_loss = 0 if early else sum(jnp.cos(c).sum() for c in end)
    return jnp.sin(ys[:early]).sum() + carry_loss, (ys, end, info)

  (_, outputs), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, xs, carry)
  return outputs, grads


def assert_trees_close(got, expected, precision=1e-12):
  """Assert that two trees agree, relative to the largest number of each leaf."""
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=precision * max(1, abs(b).max()))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
  "options, max_iterations", [(FULL, 8), (DIAGONAL, 60)], ids=["full", "diagonal"]
)
@pytest.mark.parametrize("cell", [gru(H), lstm(H)], ids=str)
def test_contractive_sequence_converges_in_few_iterations(cell, options, max_iterations, reverse):
  """2,000 steps need few iterations, more with diagonal Jacobians; results equal those of scan."""
  params, xs = random_problem(cell, 2000, gain=0.5)
  (ys, end, info), grads = outputs_and_gradients(cell, params, xs, options, reverse=reverse)
  (expected, last, _), expected_grads = outputs_and_gradients(cell, params, xs, reverse=reverse)
  assert info.converged and 0 < info.num_iterations <= max_iterations
  assert_trees_close((ys, end), (expected, last))
  assert_trees_close(grads, expected_grads, 1e-10)


@pytest.mark.parametrize(
  "options",
  [FULL, DIAGONAL, NewtonOptions(damping=0.5), NewtonOptions("diagonal", 0.9)],
  ids=["full", "diagonal", "damped", "damped diagonal"],
)
@pytest.mark.parametrize("T", range(1, 9))
def test_converges_within_number_of_steps(T, options):
  """After k iterations the first k steps are exact, also with approximate Jacobians."""
  cell = vanilla(H)
  params, xs = random_problem(cell, T, gain=3.0)
  _, ys, info = solve(cell, params, xs, options=options)
  assert info.converged and info.num_iterations <= T
  assert_trees_close(ys, unroll(cell, params, xs, backend="scan")[1])


@pytest.mark.parametrize("options", [FULL, DIAGONAL, NewtonOptions(damping=0.3)], ids=str)
def test_chaotic_sequence_falls_back_to_scan(options):
  """`converged` is False, and each state is the step of the previous one."""
  cell = vanilla(H)
  params, xs = random_problem(cell, 300, gain=6.0)
  _, ys, info = jax.jit(functools.partial(solve, cell, options=options))(params, xs)
  assert not info.converged and info.residual > 1e-12
  before = jnp.concatenate([jnp.zeros_like(ys[:1]), ys[:-1]])
  _, after = cell.step(params, (before,), cell.project(params, xs))
  assert_trees_close(ys, after, 1e-14)


def test_overflowing_jacobian_products_keep_early_gradients_finite():
  """Products of a chaotic cell's Jacobians overflow; gradients of early outputs are correct."""
  cell = vanilla(H)
  params, xs = random_problem(cell, 2000, gain=6.0)
  (ys, _, info), grads = outputs_and_gradients(cell, params, xs, FULL, early=5)
  (expected, _, _), expected_grads = outputs_and_gradients(cell, params, xs, early=5)
  assert np.isinf(info.residual) and not info.converged
  assert_trees_close((ys[:5], grads), (expected[:5], expected_grads))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("cell", [gru(H), lstm(H)], ids=str)
def test_iteration_limit_falls_back_to_scan(cell):
  """Outputs and gradients are then those of the loop."""
  params, xs = random_problem(cell, 50)
  (ys, end, info), grads = outputs_and_gradients(cell, params, xs, NewtonOptions(max_iterations=1))
  (expected, last, _), expected_grads = outputs_and_gradients(cell, params, xs)
  assert not info.converged and info.num_iterations == 1
  assert_trees_close((ys, end, grads), (expected, last, expected_grads))


def test_vmapped_rows_converge_independently():
  """Under vmap a row that does not converge does not affect another one."""
  cell = vanilla(H)
  params, xs = random_problem(cell, 300, batch=())
  gains = jnp.array([0.5, 6.0])
  run = lambda gain: solve(cell, params | {"U": gain * params["U"]}, xs)
  _, ys, info = jax.vmap(run)(gains)
  np.testing.assert_array_equal(info.converged, [True, False])
  expected = unroll(cell, params | {"U": 0.5 * params["U"]}, xs, backend="scan")[1]
  assert_trees_close(ys[0], expected)


def test_second_derivatives_equal_scan():
  """Products with the Hessian equal those of scan."""
  cell = gru(H)
  params, xs = random_problem(cell, 12)

  def product(backend):
    loss = lambda xs: jnp.sin(unroll(cell, params, xs, backend=backend)[1]).sum()
    return jax.grad(lambda xs: (jax.grad(loss)(xs) * jnp.cos(xs)).sum())(xs)

  assert_trees_close(product("newton"), product("scan"))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_linear_recurrence_equals_numpy_loop(reverse):
  """Parallel and sequential scans, of matrices and of diagonals, equal a loop in NumPy."""
  draw = np.random.default_rng(0)
  J, r = draw.normal(size=(11, 2, 3, 3)), draw.normal(size=(11, 2, 3))
  diagonals = J.diagonal(axis1=-2, axis2=-1)
  for matrices, argument in ((J, J), (J * np.eye(3), diagonals)):
    δ, expected = np.zeros((2, 3)), np.zeros_like(r)
    for t in reversed(range(11)) if reverse else range(11):
      δ = np.einsum("bij,bj->bi", matrices[t], δ) + r[t]
      expected[t] = δ
    for solver in (parallel_linear_scan, sequential_linear_scan):
      assert_trees_close(solver(jnp.asarray(argument), jnp.asarray(r), reverse), expected)


def test_large_jacobians_are_unavailable():
  """The limit is 2 GiB; the reason names the size and a backend that can run the cell."""
  xs = jax.ShapeDtypeStruct((1000, 2, 8), jnp.float32)
  carry = lambda n: (jax.ShapeDtypeStruct((2, n), jnp.float32),) * 2
  assert not backend_status(lstm(64), {}, xs, carry(64))["newton"]
  reason = backend_status(lstm(512), {}, xs, carry(512))["newton"]
  assert "[1024, 1024]" in reason and "7.8 GiB" in reason and "'scan'" in reason


@pytest.mark.parametrize(
  "options", [NewtonOptions("half"), NewtonOptions(damping=1.0), NewtonOptions(max_iterations=-1)]
)
def test_invalid_options_raise(options):
  with pytest.raises(
    ValueError, match=r"jacobian must be one of .* damping in \[0, 1\).* got Newton"
  ):
    solve(gru(H), *random_problem(gru(H), 3), options=options)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_cell_converges(case):
  """With lengths, an initial carry and in reverse, no cell needs the loop."""
  xs = jnp.asarray(random_inputs())
  mask = np.arange(len(xs))[:, None] < LENGTHS
  _, _, info = solve(case.cell, case.params(), xs, mask, case.carry(), reverse=True)
  assert info.converged and info.num_iterations <= len(xs)


def test_gradients_with_overflowing_jacobian_products():
  """The initial guess solves the recurrence, and only the parallel backward pass would overflow."""
  cell = vanilla(2)
  params = {"W": jnp.eye(2), "U": 30 * jnp.eye(2), "b": jnp.zeros(2)}

  def loss(xs, backend):
    _, ys = unroll(cell, params, xs, backend=backend)
    return ys[0].sum()

  xs = jnp.zeros((1000, 1, 2))
  grads, expected_grads = (jax.grad(loss)(xs, backend) for backend in ("newton", "scan"))
  np.testing.assert_array_equal(grads, expected_grads)
