"""Newton over time: it finds what the loop finds, says how, and hands over where it cannot."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import backends, gru, lstm, unroll, vanilla
from rnnjax.backends.linear_scan import at_once, in_turn
from rnnjax.backends.newton.solver import Newton, solve
from tests.cells_table import CASES, LENGTHS, NAMES, inputs

pytestmark = pytest.mark.usefixtures("float64")
H, D = 4, 3
FULL, DIAGONAL = Newton(), Newton("diagonal")


def made(cell, T, gain=1.0, batch=(2,)):
  """Parameters with entries of U of that size over √H, and inputs."""
  draw = np.random.default_rng(0)
  params = jax.tree.map(jnp.float64, cell.init(jax.random.key(0), D))
  params["U"] = gain * draw.normal(0, H**-0.5, params["U"].shape)
  return params, jnp.asarray(draw.normal(size=(T, *batch, D)))


@functools.partial(jax.jit, static_argnames=("cell", "how", "reverse", "early"))
def both(cell, params, xs, how=None, carry=None, reverse=False, early=None):
  """(ys, last carry, found) and gradients of a sum over ys[:early]; of scan where how is None."""

  def loss(params, xs, carry):
    carry = cell.start(xs[0]) if carry is None else carry
    if how is None:
      end, ys = unroll(cell, params, xs, carry=carry, reverse=reverse, backend="scan")
      found = None
    else:
      end, ys, found = solve(cell, params, xs, None, carry, reverse, how)
    late = 0 if early else sum(jnp.cos(c).sum() for c in end)
    return jnp.sin(ys[:early]).sum() + late, (ys, end, found)

  (_, out), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, xs, carry)
  return out, grads


def close(got, expected, precision=1e-12):
  """Two trees agree, relative to the largest number of each leaf."""
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=precision * max(1, abs(b).max()))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("how, most", [(FULL, 8), (DIAGONAL, 60)], ids=["full", "diagonal"])
@pytest.mark.parametrize("cell", [gru(H), lstm(H)], ids=str)
def test_long_and_contractive(cell, how, most, reverse):
  """2,000 steps take a handful of iterations, more with diagonals; all is equal to the loop's."""
  params, xs = made(cell, 2000, gain=0.5)
  (ys, end, found), grads = both(cell, params, xs, how, reverse=reverse)
  (expected, last, _), true = both(cell, params, xs, reverse=reverse)
  assert found.converged and 0 < found.iterations <= most
  close((ys, end), (expected, last))
  close(grads, true, 1e-10)


@pytest.mark.parametrize(
  "how",
  [FULL, DIAGONAL, Newton(damping=0.5), Newton("diagonal", 0.9)],
  ids=["full", "diagonal", "damped", "damped diagonal"],
)
@pytest.mark.parametrize("T", range(1, 9))
def test_as_many_iterations_as_steps_suffice(T, how):
  """After k iterations the first k steps are exact, whatever stands for the Jacobians."""
  cell = vanilla(H)
  params, xs = made(cell, T, gain=3.0)
  _, ys, found = solve(cell, params, xs, how=how)
  assert found.converged and found.iterations <= T
  close(ys, unroll(cell, params, xs, backend="scan")[1])


@pytest.mark.parametrize("how", [FULL, DIAGONAL, Newton(damping=0.3)], ids=str)
def test_chaos_is_left_to_the_loop(how):
  """It says that it has not converged; each step follows from the one before, as in a loop."""
  cell = vanilla(H)
  params, xs = made(cell, 300, gain=6.0)
  _, ys, found = jax.jit(functools.partial(solve, cell, how=how))(params, xs)
  assert not found.converged and found.residual > 1e-12
  zero = jnp.zeros_like(ys[:1])
  before = jnp.concatenate([zero, ys[:-1]])
  _, after = cell.step(params, (before,), cell.project(params, xs))
  close(ys, after, 1e-14)


def test_products_that_overflow():
  """Chaos has products of Jacobians beyond all numbers; early outputs keep their gradients."""
  cell = vanilla(H)
  params, xs = made(cell, 2000, gain=6.0)
  (ys, _, found), grads = both(cell, params, xs, FULL, early=5)
  (expected, _, _), true = both(cell, params, xs, early=5)
  assert np.isinf(found.residual) and not found.converged
  close((ys[:5], grads), (expected[:5], true))
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("cell", [gru(H), lstm(H)], ids=str)
def test_too_few_iterations(cell):
  """It hands over to the loop, whose outputs and gradients they then are."""
  params, xs = made(cell, 50)
  (ys, end, found), grads = both(cell, params, xs, Newton(iterations=1))
  (expected, last, _), true = both(cell, params, xs)
  assert not found.converged and found.iterations == 1
  close((ys, end, grads), (expected, last, true))


def test_one_row_that_does_not_converge():
  """Under vmap each row is found, or not, by itself."""
  cell = vanilla(H)
  params, xs = made(cell, 300, batch=())
  gains = jnp.array([0.5, 6.0])
  run = lambda gain: solve(cell, params | {"U": gain * params["U"]}, xs)
  _, ys, found = jax.vmap(run)(gains)
  np.testing.assert_array_equal(found.converged, [True, False])
  expected = unroll(cell, params | {"U": 0.5 * params["U"]}, xs, backend="scan")[1]
  close(ys[0], expected)


def test_second_derivatives():
  """A gradient can be differentiated again: products with the Hessian are those of scan."""
  cell = gru(H)
  params, xs = made(cell, 12)

  def product(backend):
    loss = lambda xs: jnp.sin(unroll(cell, params, xs, backend=backend)[1]).sum()
    return jax.grad(lambda xs: (jax.grad(loss)(xs) * jnp.cos(xs)).sum())(xs)

  close(product("newton"), product("scan"))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_linear_recurrence(reverse):
  """All at once or in turn, matrices or diagonals: a loop in NumPy."""
  draw = np.random.default_rng(0)
  J, r = draw.normal(size=(11, 2, 3, 3)), draw.normal(size=(11, 2, 3))
  for matrices, way in ((J, J), (J * np.eye(3), J.diagonal(axis1=-2, axis2=-1))):
    δ, expected = np.zeros((2, 3)), np.zeros_like(r)
    for t in reversed(range(11)) if reverse else range(11):
      δ = np.einsum("bij,bj->bi", matrices[t], δ) + r[t]
      expected[t] = δ
    for solver in (at_once, in_turn):
      close(solver(jnp.asarray(way), jnp.asarray(r), reverse), expected)


def test_wide_carries_are_refused():
  """Jacobians of 2 GiB and more are not made; the message says how many GiB, and what runs it."""
  xs = jax.ShapeDtypeStruct((1000, 2, 8), jnp.float32)
  carry = lambda n: (jax.ShapeDtypeStruct((2, n), jnp.float32),) * 2
  assert not backends(lstm(64), {}, xs, carry(64))["newton"]
  why = backends(lstm(512), {}, xs, carry(512))["newton"]
  assert "[1024, 1024]" in why and "7.8 GiB" in why and "'scan'" in why


@pytest.mark.parametrize("how", [Newton("half"), Newton(damping=1.0), Newton(iterations=-1)])
def test_wrong_options(how):
  with pytest.raises(ValueError, match=r"form must be one of .* damping in \[0, 1\).* got Newton"):
    solve(gru(H), *made(gru(H), 3), how=how)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_every_cell_converges(case):
  """Ragged rows, a given carry, reverse: the loop is not needed for any of our cells."""
  xs = jnp.asarray(inputs())
  alive = np.arange(len(xs))[:, None] < LENGTHS
  _, _, found = solve(case.cell, case.params(), xs, alive, case.carry(), reverse=True)
  assert found.converged and found.iterations <= len(xs)


def test_gradients_where_products_of_jacobians_overflow():
  """A guess can be right at once, and only the way back would overflow."""
  cell = vanilla(2)
  params = {"W": jnp.eye(2), "U": 30 * jnp.eye(2), "b": jnp.zeros(2)}
  first = lambda backend: lambda xs: unroll(cell, params, xs, backend=backend)[1][0].sum()
  xs = jnp.zeros((1000, 1, 2))
  found, true = (jax.grad(first(backend))(xs) for backend in ("newton", "scan"))
  np.testing.assert_array_equal(found, true)
