"""The laws of `unroll`, for every form of cell on every backend, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rnnjax import mingru
from tests.cell_cases import (
  CASES,
  LENGTHS,
  NAMES,
  B,
  D,
  H,
  T,
  jit_unroll,
  over_cells_and_backends,
  random_inputs,
  value_and_gradients,
)

pytestmark = [pytest.mark.usefixtures("float64"), over_cells_and_backends]


def assert_trees_close(actual, expected, atol=1e-12):
  """Check that two trees of arrays agree to 1e-12."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=atol)


def test_equals_python_loop(case, backend):
  """A Python loop over `project` and `step` gives the same carry and outputs."""
  params, xs, initial_carry = case.params(), random_inputs(), case.carry()

  @jax.jit
  def step(carry, x):
    return case.cell.step(params, carry, case.cell.project(params, x))

  carry, ys = initial_carry, []
  for x in xs:
    carry, y = step(carry, x)
    ys.append(y)
  actual = jit_unroll(case.cell, params, xs, carry=initial_carry, backend=backend)
  assert_trees_close(actual, (carry, jnp.stack(ys)))


@pytest.mark.parametrize("reverse", [False, True], ids=["causal", "anticausal"])
def test_output_depends_only_on_past_inputs(case, backend, reverse):
  """∂yₜ/∂xₛ is 0 for s > t (s < t in reverse) and across rows, and only there."""
  params, xs = case.params(), random_inputs()

  def run(xs):
    return jit_unroll(case.cell, params, xs, reverse=reverse, backend=backend)[1]

  jacobian = jax.jit(jax.jacrev(run))(xs)
  depends = abs(jacobian).sum((2, 5)).swapaxes(1, 2) > 0  # [T, T, B, B]
  causal = np.triu(np.ones((T, T))) if reverse else np.tril(np.ones((T, T)))
  np.testing.assert_array_equal(depends, causal[..., None, None] * np.eye(B))


def test_gradients_equal_finite_differences(case, backend):
  """Reverse-mode derivatives, and forward-mode ones of `scan`, equal finite differences."""
  modes = ["rev", "fwd"] if backend == "scan" else ["rev"]

  def run(params, xs, carry):
    return jit_unroll(case.cell, params, xs, LENGTHS, carry=carry, backend=backend)

  args = jax.tree.map(jnp.asarray, (case.params(), random_inputs(), case.carry()))
  check_grads(jax.jit(run), args, order=1, modes=modes, eps=1e-5, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_padding_affects_neither_outputs_nor_gradients(case, backend, reverse):
  """Outputs and gradients do not depend on the padding, even NaN; its gradients are 0."""
  params, xs, initial_carry = case.params(), random_inputs(), case.carry()
  padding = np.arange(T)[:, None, None] >= LENGTHS[:, None]
  results = [
    value_and_gradients(
      case.cell,
      params,
      np.where(padding, value, xs),
      LENGTHS,
      initial_carry,
      reverse,
      None,
      backend,
    )
    for value in (0.0, 1e3, np.nan)
  ]
  assert_trees_close(results[1:], results[:1] * 2, atol=0)
  (_, (_, ys)), (_, dxs, _) = results[-1]
  assert not np.where(padding, ys, 0).any() and not np.where(padding, dxs, 0).any()
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results[-1]))


def test_length_zero_returns_initial_carry(case, backend):
  """A row of length 0 returns its initial carry, and the gradient of the carry is unchanged."""
  params, xs, initial_carry = case.params(), random_inputs(), case.carry()
  (_, (carry, ys)), (_, dxs, dcarry) = value_and_gradients(
    case.cell, params, xs, LENGTHS, initial_carry, backend=backend
  )
  row = int(np.flatnonzero(LENGTHS == 0)[0])
  assert_trees_close([c[row] for c in carry], [c[row] for c in initial_carry], atol=0)
  assert_trees_close([d[row] for d in dcarry], [-np.sin(c[row]) for c in initial_carry])
  assert not ys[:, row].any() and not dxs[:, row].any()
  default_carry, _ = jit_unroll(case.cell, params, xs, LENGTHS, backend=backend)
  assert not any(c[row].any() for c in default_carry)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_batch_rows_are_independent(case, backend, reverse):
  """A padded batch gives the same as its rows, unrolled one by one without a batch axis."""
  params, xs, initial_carry = case.params(), random_inputs(), case.carry()
  options = dict(reverse=reverse, backend=backend)
  carry, ys = jit_unroll(case.cell, params, xs, LENGTHS, carry=initial_carry, **options)
  for b, n in enumerate(LENGTHS):
    row_carry = tuple(c[b] for c in initial_carry)
    expected = jit_unroll(case.cell, params, xs[:n, b], carry=row_carry, **options)
    assert_trees_close((tuple(c[b] for c in carry), ys[:n, b]), expected)


def test_reverse_equals_flipped_sequence(case, backend):
  """reverse=True equals flipping the valid steps of inputs and outputs."""
  params, xs = case.params(), random_inputs()
  steps = np.arange(T)[:, None]
  flip = np.where(steps < LENGTHS, LENGTHS - 1 - steps, steps)[..., None]
  flipped_xs = np.take_along_axis(xs, flip, 0)
  carry, flipped_ys = jit_unroll(case.cell, params, flipped_xs, LENGTHS, backend=backend)
  expected = carry, np.take_along_axis(np.asarray(flipped_ys), flip, 0)
  actual = jit_unroll(case.cell, params, xs, LENGTHS, reverse=True, backend=backend)
  assert_trees_close(actual, expected)


def test_streaming_equals_whole_sequence(case, backend):
  """Two halves with the carry passed on give the same as the whole sequence."""
  params, xs, carry = case.params(), random_inputs(), case.carry()
  whole = jit_unroll(case.cell, params, xs, carry=carry, backend=backend)
  carry, first = jit_unroll(case.cell, params, xs[: T // 2], carry=carry, backend=backend)
  carry, second = jit_unroll(case.cell, params, xs[T // 2 :], carry=carry, backend=backend)
  assert_trees_close((carry, jnp.concatenate([first, second])), whole)


def test_vmap_equals_batch(case, backend):
  """vmap over rows gives the same outputs and gradients as the batch."""
  params, xs, initial_carry = case.params(), random_inputs(), case.carry()
  (_, expected), (expected_dparams, *expected_gradients) = value_and_gradients(
    case.cell, params, xs, LENGTHS, initial_carry, backend=backend
  )

  def run_row(xs, length, carry):
    return value_and_gradients(case.cell, params, xs, length, carry, backend=backend)

  out_axes = (0, (0, 1)), (0, 1, 0)  # (loss, (carry, ys)), (params, xs, carry)
  run_rows = jax.vmap(run_row, (1, 0, 0), out_axes)
  (_, actual), (dparams, *gradients) = run_rows(xs, LENGTHS, initial_carry)
  assert_trees_close((actual, *gradients), (expected, *expected_gradients))
  assert_trees_close(jax.tree.map(lambda d: d.sum(0), dparams), expected_dparams)


def test_two_batch_axes_equal_one(case, backend):
  """Two batch axes give the same as one of their product."""
  params, xs = case.params(), random_inputs(batch=(4,))
  lengths, options = np.array([6, 0, 3, 1]), dict(reverse=True, backend=backend)
  carry, ys = jit_unroll(case.cell, params, xs, lengths, **options)
  expected = tuple(c.reshape(2, 2, -1) for c in carry), ys.reshape(T, 2, 2, H)
  actual = jit_unroll(case.cell, params, xs.reshape(T, 2, 2, D), lengths.reshape(2, 2), **options)
  assert_trees_close(actual, expected)


@pytest.mark.parametrize("remat, reverse, lengths", [(2, True, None), (4, True, LENGTHS)])
def test_remat_does_not_change_results(case, backend, remat, reverse, lengths):
  """Recomputed chunks, whose size divides T or not, give the same outputs and gradients."""
  args = case.cell, case.params(), random_inputs(), lengths, case.carry(), reverse
  assert_trees_close(
    value_and_gradients(*args, remat, backend), value_and_gradients(*args, backend=backend)
  )


def test_zero_steps_return_initial_carry(case, backend):
  """T = 0 returns the initial carry, whose gradient is unchanged, and no outputs."""
  initial_carry = case.carry()
  (_, (carry, ys)), (dparams, _, dcarry) = value_and_gradients(
    case.cell, case.params(), random_inputs(0), None, initial_carry, backend=backend
  )
  assert_trees_close(carry, initial_carry, atol=0)
  assert ys.shape == (0, B, H)
  assert not any(d.any() for d in jax.tree.leaves(dparams))
  assert_trees_close(dcarry, tuple(-np.sin(c) for c in initial_carry))


def test_compiles_once(case, backend):
  """Calls with other values do not trace again, even if the cell is built again."""
  traced_shapes = []

  @jax.jit
  def loss(params, xs, lengths):
    traced_shapes.append(xs.shape)
    return jit_unroll(case.cell, params, xs, lengths, backend=backend)[1].sum()

  cache_size = jit_unroll._cache_size()
  for lengths in (LENGTHS, LENGTHS // 2):
    params = CASES[NAMES.index("mingru(5)")].params()  # a cell that every backend runs
    jit_unroll(mingru(features=H), params, random_inputs(), lengths, backend=backend)
    loss(case.params(), random_inputs() + lengths.sum(), lengths)
  assert len(traced_shapes) == 1 and jit_unroll._cache_size() <= cache_size + 2
