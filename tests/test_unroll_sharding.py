"""The loop over time on several devices: explicit sharding and shard_map change nothing."""

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


def assert_trees_close(got, expected):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_explicit_sharding_equals_single_device(case, backend):
  """On a mesh of explicit axes outputs, carry and gradients are those of one device, also where
  lengths and carry lie elsewhere, in chunks of which the last is filled up."""
  args = case.params(), random_inputs(batch=(4,)), LENGTHS, case.carry((4,))
  expected = value_and_gradients(case.cell, *args, backend=backend)
  mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Explicit,))
  P = PartitionSpec
  specs = P(), P(None, "batch"), P("batch"), P("batch")
  with jax.set_mesh(mesh):
    placed = [jax.device_put(tree, spec) for tree, spec in zip(args, specs)]
    got = value_and_gradients(case.cell, *placed, backend=backend)
    start, ys = jax.jit(functools.partial(unroll, case.cell, backend=backend))(*placed[:3])
    elsewhere = value_and_gradients(case.cell, *placed[:2], *args[2:], remat=2, backend=backend)
  assert_trees_close(got, expected)
  assert_trees_close(elsewhere, expected)
  assert jax.typeof(ys).sharding.spec == P(None, "batch", None)
  assert all(jax.typeof(c).sharding.spec == P("batch", None) for c in start)


def test_auto_mesh_equals_single_device(case, backend):
  """A mesh with an automatic axis "batch" changes no result; deferred devices meet once a loop."""
  args = case.params(), random_inputs(batch=(4,)), LENGTHS, case.carry((4,))
  expected = value_and_gradients(case.cell, *args, backend=backend)
  P = PartitionSpec
  specs = P(), P(None, "batch"), P("batch"), P("batch")
  with jax.set_mesh(jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))):
    placed = [jax.device_put(tree, spec) for tree, spec in zip(args, specs)]
    compiled = value_and_gradients.lower(case.cell, *placed, backend=backend).compile()
  assert_trees_close(compiled(*placed), expected)
  text = compiled.as_text()
  loops = [
    part
    for part in re.split(r"\n(?=%|ENTRY)", text)
    if part.split(" ")[0] in set(re.findall(r"body=(%[\w.-]+)", text))
  ]
  assert (len(loops) >= 2) == (backend != "associative") and "all-reduce" in text
  assert any("all-reduce(" in loop for loop in loops) == (backend == "scan")


def test_shard_map_equals_single_device(case, backend):
  """Each device unrolls its own rows; outputs and the gradients of shared parameters agree."""
  args = case.params(), random_inputs(batch=(4,)), LENGTHS
  alone = functools.partial(unroll, case.cell, backend=backend)
  P = PartitionSpec
  each = jax.shard_map(
    alone,
    mesh=jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,)),
    in_specs=(P(), P(None, "batch"), P("batch")),
    out_specs=(P("batch"), P(None, "batch")),
  )

  def loss(f, params, xs, lengths):
    carry, ys = f(params, xs, lengths)
    return jnp.sin(ys).sum(), (carry, ys)

  values = [
    jax.jit(jax.value_and_grad(functools.partial(loss, f), (0, 1), has_aux=True))(*args)
    for f in (each, alone)
  ]
  assert_trees_close(*values)
