"""The laws of unroll, held by every cell and on every backend, in float64."""

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


def assert_trees_close(got, expected, atol=1e-12):
  """Two trees of arrays agree, to 1e-12 relative to numbers of order one."""
  assert jax.tree.structure(got) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=atol)


def test_equals_python_loop(case, backend):
  """A Python loop over project and step gives the same carry and outputs."""
  params, xs, first = case.params(), random_inputs(), case.carry()
  carry, ys = first, []
  tick = jax.jit(lambda carry, x: case.cell.step(params, carry, case.cell.project(params, x)))
  for x in xs:
    carry, y = tick(carry, x)
    ys.append(y)
  assert_trees_close(
    jit_unroll(case.cell, params, xs, carry=first, backend=backend), (carry, jnp.stack(ys))
  )


@pytest.mark.parametrize("reverse", [False, True], ids=["causal", "anticausal"])
def test_output_depends_only_on_past_inputs(case, backend, reverse):
  """∂yₜ/∂xₛ is exactly 0 for s > t (s < t in reverse) and nowhere else, nor across rows."""
  params, xs = case.params(), random_inputs()
  jacobian = jax.jacrev(
    lambda xs: jit_unroll(case.cell, params, xs, reverse=reverse, backend=backend)[1]
  )
  influence = abs(jax.jit(jacobian)(xs)).sum((2, 5)).swapaxes(1, 2)  # [T, T, B, B]
  seen = np.triu(np.ones((T, T))) if reverse else np.tril(np.ones((T, T)))
  np.testing.assert_array_equal(influence > 0, seen[..., None, None] * np.eye(B))


def test_gradients_equal_finite_differences(case, backend):
  """Reverse-mode derivatives, and forward-mode ones of scan, match finite differences."""
  modes = ["rev", "fwd"] if backend == "scan" else ["rev"]
  f = lambda *args: jit_unroll(case.cell, args[0], args[1], LENGTHS, carry=args[2], backend=backend)
  args = jax.tree.map(jnp.asarray, (case.params(), random_inputs(), case.carry()))
  check_grads(jax.jit(f), args, order=1, modes=modes, eps=1e-5, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_padding_affects_neither_outputs_nor_gradients(case, backend, reverse):
  """Whatever lies past a row's length, NaN even, outputs and gradients stay, and it gets none."""
  params, xs, first = case.params(), random_inputs(), case.carry()
  past = np.arange(T)[:, None, None] >= LENGTHS[:, None]
  results = [
    value_and_gradients(
      case.cell, params, np.where(past, fill, xs), LENGTHS, first, reverse, backend=backend
    )
    for fill in (0.0, 1e3, np.nan)
  ]
  assert_trees_close(results[1:], results[:1] * 2, atol=0)
  (_, (_, ys)), (_, dxs, _) = results[-1]
  assert not np.where(past, ys, 0).any() and not np.where(past, dxs, 0).any()
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results[-1]))


def test_length_zero_returns_initial_carry(case, backend):
  """A row without steps ends where it starts, and the gradient passes it by unchanged."""
  params, xs, first = case.params(), random_inputs(), case.carry()
  (_, (carry, ys)), (_, dxs, dcarry) = value_and_gradients(
    case.cell, params, xs, LENGTHS, first, backend=backend
  )
  row = int(np.flatnonzero(LENGTHS == 0)[0])
  assert_trees_close([c[row] for c in carry], [c[row] for c in first], atol=0)
  assert_trees_close([d[row] for d in dcarry], [-np.sin(c[row]) for c in first])
  assert not ys[:, row].any() and not dxs[:, row].any()
  start, _ = jit_unroll(case.cell, params, xs, LENGTHS, backend=backend)
  assert not any(c[row].any() for c in start)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_batch_rows_are_independent(case, backend, reverse):
  """A ragged batch is its rows, each unrolled alone and without a batch axis."""
  params, xs, first = case.params(), random_inputs(), case.carry()
  options = dict(reverse=reverse, backend=backend)
  carry, ys = jit_unroll(case.cell, params, xs, LENGTHS, carry=first, **options)
  for b, n in enumerate(LENGTHS):
    alone = jit_unroll(case.cell, params, xs[:n, b], carry=tuple(c[b] for c in first), **options)
    assert_trees_close((tuple(c[b] for c in carry), ys[:n, b]), alone)


def test_reverse_equals_flipped_sequence(case, backend):
  """Reverse is: flip each row's living steps, unroll, flip the outputs back."""
  params, xs = case.params(), random_inputs()
  steps = np.arange(T)[:, None]
  flip = np.where(steps < LENGTHS, LENGTHS - 1 - steps, steps)[..., None]
  carry, ys = jit_unroll(
    case.cell, params, np.take_along_axis(xs, flip, 0), LENGTHS, backend=backend
  )
  flipped = carry, np.take_along_axis(np.asarray(ys), flip, 0)
  assert_trees_close(
    jit_unroll(case.cell, params, xs, LENGTHS, reverse=True, backend=backend), flipped
  )


def test_streaming_equals_whole_sequence(case, backend):
  """Two halves, the carry handed over, are the whole."""
  params, xs, first = case.params(), random_inputs(), case.carry()
  carry, one = jit_unroll(case.cell, params, xs[: T // 2], carry=first, backend=backend)
  carry, two = jit_unroll(case.cell, params, xs[T // 2 :], carry=carry, backend=backend)
  whole = jit_unroll(case.cell, params, xs, carry=first, backend=backend)
  assert_trees_close((carry, jnp.concatenate([one, two])), whole)


def test_vmap_equals_batch(case, backend):
  """vmap over rows gives the batch, gradients included."""
  params, xs, first = case.params(), random_inputs(), case.carry()
  (_, ends), (dparams, *rest) = value_and_gradients(
    case.cell, params, xs, LENGTHS, first, backend=backend
  )
  row = lambda xs, n, carry: value_and_gradients(case.cell, params, xs, n, carry, backend=backend)
  axes = (0, (0, 1)), (0, 1, 0)  # (loss, (carry, ys)), (params, xs, carry)
  (_, each), (dsum, *alone) = jax.vmap(row, (1, 0, 0), axes)(xs, LENGTHS, first)
  assert_trees_close((each, *alone), (ends, *rest))
  assert_trees_close(jax.tree.map(lambda d: d.sum(0), dsum), dparams)


def test_two_batch_axes_equal_one(case, backend):
  """Two batch axes are one, cut in two."""
  params, xs = case.params(), random_inputs(batch=(4,))
  lengths, options = np.array([6, 0, 3, 1]), dict(reverse=True, backend=backend)
  cut = jit_unroll(case.cell, params, xs.reshape(T, 2, 2, D), lengths.reshape(2, 2), **options)
  carry, ys = jit_unroll(case.cell, params, xs, lengths, **options)
  assert_trees_close(cut, (tuple(c.reshape(2, 2, -1) for c in carry), ys.reshape(T, 2, 2, H)))


@pytest.mark.parametrize("remat, reverse, lengths", [(2, True, None), (4, True, LENGTHS)])
def test_remat_does_not_change_results(case, backend, remat, reverse, lengths):
  """Chunks that are computed again, dividing T or not, give the same outputs and gradients."""
  args = case.cell, case.params(), random_inputs(), lengths, case.carry(), reverse
  assert_trees_close(
    value_and_gradients(*args, remat, backend), value_and_gradients(*args, backend=backend)
  )


def test_zero_steps_return_initial_carry(case, backend):
  """T = 0: the carry is the first one, its gradient passes, and there are no outputs."""
  first = case.carry()
  (_, (carry, ys)), (dparams, _, dcarry) = value_and_gradients(
    case.cell, case.params(), random_inputs(0), None, first, backend=backend
  )
  assert_trees_close(carry, first, atol=0)
  assert ys.shape == (0, B, H)
  assert not any(d.any() for d in jax.tree.leaves(dparams))
  assert_trees_close(dcarry, tuple(-np.sin(c) for c in first))


def test_compiles_once(case, backend):
  """Two calls with other numbers trace a user's function once; cells are made anew in between."""
  traces = []

  @jax.jit
  def loss(params, xs, lengths):
    traces.append(xs.shape)
    return jit_unroll(case.cell, params, xs, lengths, backend=backend)[1].sum()

  before = jit_unroll._cache_size()
  for lengths in (LENGTHS, LENGTHS // 2):
    params = CASES[NAMES.index("mingru(5)")].params()  # of a cell that every backend runs
    jit_unroll(mingru(features=H), params, random_inputs(), lengths, backend=backend)
    loss(case.params(), random_inputs() + lengths.sum(), lengths)
  assert len(traces) == 1 and jit_unroll._cache_size() <= before + 2
