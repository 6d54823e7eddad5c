"""`unroll` on several devices: sharding does not change results."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rnnjax.unroll import unroll
from tests.cell_cases import T, over_cells_and_backends, random_inputs, value_and_gradients

pytestmark = [pytest.mark.usefixtures("float64"), over_cells_and_backends]
LENGTHS = np.array([T, 0, 3, 1])


def assert_trees_close(actual, expected):
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_explicit_sharding_equals_single_device(case, backend):
  """On a mesh of explicit axes the outputs, carry and gradients equal those of one device.

  They also do if lengths and carry are unsharded, and with remat chunks, the last of them padded.
  """
  args = case.params(), random_inputs(batch=(4,)), LENGTHS, case.carry((4,))
  expected = value_and_gradients(case.cell, *args, backend=backend)
  mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Explicit,))
  P = PartitionSpec
  specs = P(), P(None, "batch"), P("batch"), P("batch")
  with jax.set_mesh(mesh):
    sharded = [jax.device_put(tree, spec) for tree, spec in zip(args, specs)]
    actual = value_and_gradients(case.cell, *sharded, backend=backend)
    carry, ys = jax.jit(functools.partial(unroll, case.cell, backend=backend))(*sharded[:3])
    partly_sharded = value_and_gradients(
      case.cell, *sharded[:2], *args[2:], remat=2, backend=backend
    )
  assert_trees_close(actual, expected)
  assert_trees_close(partly_sharded, expected)
  assert jax.typeof(ys).sharding.spec == P(None, "batch", None)
  assert all(jax.typeof(c).sharding.spec == P("batch", None) for c in carry)


def test_auto_mesh_equals_single_device(case, backend):
  """A mesh with an automatic axis changes no result; only `scan` has an all-reduce in its loops."""
  args = case.params(), random_inputs(batch=(4,)), LENGTHS, case.carry((4,))
  expected = value_and_gradients(case.cell, *args, backend=backend)
  P = PartitionSpec
  specs = P(), P(None, "batch"), P("batch"), P("batch")
  with jax.set_mesh(jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))):
    sharded = [jax.device_put(tree, spec) for tree, spec in zip(args, specs)]
    compiled = value_and_gradients.lower(case.cell, *sharded, backend=backend).compile()
  assert_trees_close(compiled(*sharded), expected)
  hlo = compiled.as_text()
  loop_bodies = [
    computation
    for computation in re.split(r"\n(?=%|ENTRY)", hlo)
    if computation.split(" ")[0] in set(re.findall(r"body=(%[\w.-]+)", hlo))
  ]
  assert (len(loop_bodies) >= 2) == (backend != "associative") and "all-reduce" in hlo
  assert any("all-reduce(" in body for body in loop_bodies) == (backend == "scan")


def test_shard_map_equals_single_device(case, backend):
  """shard_map over rows gives the same outputs and gradients of the shared parameters."""
  args = case.params(), random_inputs(batch=(4,)), LENGTHS
  run = functools.partial(unroll, case.cell, backend=backend)
  P = PartitionSpec
  sharded_run = jax.shard_map(
    run,
    mesh=jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,)),
    in_specs=(P(), P(None, "batch"), P("batch")),
    out_specs=(P("batch"), P(None, "batch")),
  )

  def loss(function, params, xs, lengths):
    carry, ys = function(params, xs, lengths)
    return jnp.sin(ys).sum(), (carry, ys)

  actual, expected = (
    jax.jit(jax.value_and_grad(functools.partial(loss, function), (0, 1), has_aux=True))(*args)
    for function in (sharded_run, run)
  )
  assert_trees_close(actual, expected)
