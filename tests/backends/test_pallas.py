"""Tests of the Pallas kernels: interpreted, they equal `scan`; they lower for GPU and TPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rnnjax import bidirectional, gru, lstm, unroll, vanilla
from rnnjax.backends.pallas import mosaic_tiling, triton, triton_tiling
from rnnjax.backends.pallas.branchless_tanh import branchless_tanh, replace_tanh
from rnnjax.backends.pallas.fused import (
  Tiling,
  make_kernel_backend,
  make_kernel_spec,
  run_fused,
  why_unsupported,
)
from rnnjax.cells.base import Cell, additive, zeros_like_batch
from rnnjax.cells.initializers import init_gates
from rnnjax.unroll import BACKENDS, backend_status, unroll_bidirectional
from tests.cell_cases import (
  CASES,
  FORMS,
  LENGTHS,
  D,
  H,
  T,
  jit_unroll,
  random_inputs,
  value_and_gradients,
)

H100 = 227 * 1024  # bytes of shared memory
KERNELS = {
  "triton": functools.partial(triton_tiling.make_triton_spec, H100),
  "mosaic": mosaic_tiling.make_mosaic_spec,
}
ADDITIVE = [case for case in CASES if case.cell.pointwise and "cells" not in case.cell.name]
for name, make_spec in KERNELS.items():
  BACKENDS[f"{name} interpreted"] = functools.partial(
    make_kernel_backend, functools.partial(make_spec, True), why_unsupported
  )

SETTINGS = {  # reverse, lengths, dtype, precision
  "forward": (False, None, np.float32, 2e-6),
  "ragged": (False, LENGTHS, np.float32, 2e-6),
  "reverse": (True, LENGTHS, np.float32, 2e-6),
  "bfloat16": (True, LENGTHS, jnp.bfloat16, 2**-5),
}
over_kernels = pytest.mark.parametrize("name", KERNELS)
over_cells = pytest.mark.parametrize("case", ADDITIVE, ids=[case.cell.name for case in ADDITIVE])


def assert_trees_close(got, expected, atol):
  """Assert that two trees agree, relative to the largest number of each leaf."""
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    a, b = jnp.float32(a), jnp.float32(b)
    np.testing.assert_allclose(a, b, rtol=0, atol=atol * max(1, abs(b).max()))


@over_kernels
@over_cells
@pytest.mark.parametrize("setting", SETTINGS)
def test_interpreted_kernels_equal_scan(case, name, setting):
  """Outputs and gradients agree, with NaN in the padding; bfloat16 agrees with float32 scan."""
  reverse, lengths, dtype, precision = SETTINGS[setting]
  cast = functools.partial(jax.tree.map, lambda a: jnp.asarray(a, dtype))
  params, xs = cast((case.params(), random_inputs()))
  carry = case.carry(dtype=np.float32)
  full = jax.tree.map(jnp.float32, (params, xs))
  if lengths is not None:
    xs = jnp.where((np.arange(T)[:, None] < lengths)[..., None], xs, jnp.nan)
  (_, (_, ys)), grads = value_and_gradients(
    case.cell, params, xs, lengths, carry, reverse, backend=f"{name} interpreted"
  )
  (_, (_, expected)), expected_grads = value_and_gradients(
    case.cell, *full, lengths, carry, reverse, backend="scan"
  )
  assert ys.dtype == dtype
  assert_trees_close((ys, grads), (expected, expected_grads), precision)


@over_kernels
@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_bidirectional_layer_in_one_launch(name, merge):
  """Both directions in one launch equal two loops."""
  xs, layers = random_inputs(dtype=np.float32), {}
  for backend in (f"{name} interpreted", "scan"):
    layer = bidirectional(lstm(H), lstm(H), merge, learned_initial_carry=True, backend=backend)
    params = layer.init(jax.random.key(0), D)
    params = jax.tree.map(lambda p: p + 0.3, params)
    loss = lambda params, xs, layer=layer: jnp.sin(layer.apply(params, xs, LENGTHS)[1]).sum()
    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(params, xs)
    layers[backend] = compiled.compile()(params, xs)
  assert_trees_close(*layers.values(), 1e-6)


@over_kernels
def test_any_number_of_batch_axes_and_steps(name):
  """No batch axis, two of them, many rows, and recomputed chunks (remat) equal scan."""
  case, options = FORMS[0], dict(backend=f"{name} interpreted")
  params = case.params(np.float32)
  for batch in ((), (2, 2), (33,)):
    xs = random_inputs(batch=batch, dtype=np.float32)
    assert_trees_close(
      jit_unroll(case.cell, params, xs, **options),
      jit_unroll(case.cell, params, xs, backend="scan"),
      1e-6,
    )
  xs, carry = random_inputs(dtype=np.float32), case.carry(dtype=np.float32)
  both = (
    value_and_gradients(case.cell, params, xs, LENGTHS, carry, True, 4, backend)
    for backend in (options["backend"], "scan")
  )
  assert_trees_close(*both, 1e-6)


@over_kernels
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sharded_batch_equals_scan(name, axis_type):
  """With the batch sharded over a mesh, outputs and gradients equal scan on one device."""
  case, xs, lengths = FORMS[0], random_inputs(batch=(4,), dtype=np.float32), np.array([T, 0, 3, 1])
  params, carry = case.params(np.float32), case.carry((4,), dtype=np.float32)
  expected = value_and_gradients(case.cell, params, xs, lengths, carry, backend="scan")
  mesh = jax.make_mesh((2,), ("batch",), axis_types=(axis_type,), devices=jax.devices()[:2])
  with jax.set_mesh(mesh):
    xs = jax.device_put(xs, PartitionSpec(None, "batch"))
    got = value_and_gradients(case.cell, params, xs, lengths, carry, backend=f"{name} interpreted")
  assert_trees_close(jax.device_get(got), expected, 1e-6)


@pytest.mark.parametrize("cell", [lstm(48, peepholes=True), gru(40)], ids=str)
def test_units_split_over_programs_equal_scan(cell):
  """Several programs, each with a part of the units, equal scan.

  Interpreted programs run one after another and cannot wait for one another. So each call runs one
  step, for which hₜ₋₁ of all units is in the ring from the start.
  """
  kernels = [functools.partial(f, interpret=True) for f in (triton.forward, triton.backward)]

  def make_spec(*args):
    return make_kernel_spec(*args, Tiling(16, 16, 16), *kernels)

  draw = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  params = jax.tree.map(lambda p: draw.normal(0, 0.4, p.shape).astype(np.float32), shapes)
  xs = random_inputs(dtype=np.float32)
  carry, outputs = cell.initial_carry(jnp.asarray(xs[0])), []
  for t in range(T):
    mask = jnp.asarray(t < LENGTHS)[None]
    ((carry, ys),) = run_fused(make_spec, cell, (params,), xs[t : t + 1], mask, (carry,), (False,))
    outputs.append(ys)
  expected = unroll(cell, params, xs, LENGTHS, backend="scan")
  assert_trees_close((carry, jnp.concatenate(outputs)), expected, 1e-6)


@over_cells
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name, platform", [("triton", "cuda"), ("mosaic", "tpu")])
def test_lowers_for_gpu_and_tpu(case, name, platform, dtype):
  """Both kernels of a training step lower for the platform, without such a device."""
  calls = count_kernels(case.cell, case.params(), name, platform, dtype)
  assert calls == 2


@pytest.mark.parametrize("cell", [lstm(256, peepholes=True), gru(200)], ids=str)
@pytest.mark.parametrize("name, platform", [("triton", "cuda"), ("mosaic", "tpu")])
def test_lowers_with_units_split_over_programs(cell, name, platform):
  """The kernels of large cells lower, too."""
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  assert count_kernels(cell, params, name, platform, jnp.float32) == 2


def count_kernels(cell, params, name, platform, dtype) -> int:
  """Return the number of kernels in a lowered training step of both directions."""
  params = {key: jax.ShapeDtypeStruct(p.shape, dtype) for key, p in params.items()}
  xs, mask = jax.ShapeDtypeStruct((T, 3, D), dtype), jax.ShapeDtypeStruct((T, 3), bool)
  make_spec = functools.partial(KERNELS[name], False)

  def loss(params, xs, mask):
    carries = (cell.initial_carry(xs[0]),) * 2
    results = run_fused(make_spec, cell, (params,) * 2, xs, mask, carries, (False, True))
    return sum(jnp.float32(leaf).sum() for leaf in jax.tree.leaves(results))

  traced = jax.jit(jax.grad(loss, (0, 1))).trace(params, xs, mask)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  return text.count({"cuda": "xla.gpu.triton", "tpu": "tpu_custom_call"}[platform])


def test_backends_say_why_unavailable():
  """`backend_status` has the reasons; requesting an unavailable backend by name raises them."""
  xs = jnp.asarray(random_inputs(dtype=np.float32))

  def status(cell, xs=xs, **extra_params):
    return backend_status(cell, cell.init(jax.random.key(0), D) | extra_params, xs)

  assert "NVIDIA GPU" in status(lstm(H))["triton"] and "a TPU" in status(lstm(H))["mosaic"]
  for name in ("triton", "mosaic"):
    reason = status(gru(H, reset="before"))[name]
    assert "pointwise function, and gru(5, reset='before') has none" in reason
    assert "float32 or bfloat16; got float16" in status(lstm(H), xs.astype(jnp.float16))[name]
    reason = status(lstm(H), gain=jnp.ones(3))[name]
    assert "parameters [H] or [n, H]" in reason and "gain of lstm(5) is [3]" in reason
    with pytest.raises(ValueError, match=f"backend='{name}' cannot run this: it needs a"):
      unroll(lstm(H), lstm(H).init(jax.random.key(0), D), xs, backend=name)
  assert status(lstm(H))["deferred"] == status(vanilla(H))["scan"] == ""


def test_tiles_fit_shared_memory():
  """Tiles divide the padded units, and U's columns fit; if they cannot, there is no tiling."""
  for size in (1, 5, 16, 33, 100, 128, 200, 256, 300, 512, 1000):
    for gates in (1, 3, 4):
      tiling = triton_tiling.choose_tiling(size, gates, 4, H100)
      if tiling:
        padded_size, block_units = tiling.padded_size(size), tiling.block_units
        assert padded_size % block_units == 0 and padded_size * block_units * gates * 4 <= H100
      else:
        assert 16 * gates * size * 4 > H100 / 2
  assert triton_tiling.choose_tiling(256, 4, 4, H100) == Tiling(16, 32, 128)
  assert triton_tiling.choose_tiling(2048, 4, 4, H100) is None
  assert mosaic_tiling.choose_tiling(1024, 4, 0, 4) is None


def test_number_of_waves(monkeypatch):
  """It equals a count by hand: 16 rows a program, two programs a multiprocessor if they fit."""

  class Device:
    compute_capability, core_count = "9.0", 132

  monkeypatch.setattr(jax, "devices", lambda: [Device])

  def num_waves(cell, B, dtype=jnp.float32):
    params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
    return triton_tiling.num_waves(cell, params, jax.ShapeDtypeStruct((T, B, D), dtype))

  assert num_waves(lstm(128), 64) == 4 * 4 / 264  # 128 x 144 numbers are 72 KiB
  assert num_waves(lstm(256), 256) == 8 * 16 / 132  # 144 KiB
  assert num_waves(lstm(512), 256) == 32 * 16 / 132  # 16 units, 160 KiB
  assert num_waves(gru(512), 100) == 32 * 7 / 132
  assert num_waves(lstm(256), 64, jnp.bfloat16) == 8 * 4 / 264


def triton_failure_reason(cell):
  """Return why Triton cannot compile a cell's pointwise function."""
  triton_tiling._lowering_error.cache_clear()
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  shapes = tuple((name, p.shape) for name, p in sorted(params.items()))
  return triton_tiling._lowering_error(cell, shapes, "float32")


def test_triton_check_works_under_jit_and_mesh(monkeypatch):
  """A supported cell has no reason: outside of jit, inside, under a mesh, and both."""
  monkeypatch.setattr(triton_tiling, "shared_memory_bytes", lambda: H100)
  reasons = [triton_failure_reason(lstm(H))]

  @jax.jit
  def ask_inside_jit(x):
    reasons.append(triton_failure_reason(lstm(H)))
    return x

  ask_inside_jit(1.0)
  with jax.set_mesh(jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))):
    reasons.append(triton_failure_reason(lstm(H)))
    ask_inside_jit(jnp.ones(2))
  assert reasons == [""] * 4


def test_unsupported_pointwise_function_gives_reason(monkeypatch):
  """A function that Triton does not support is a reason with the cell's name, not an error."""
  monkeypatch.setattr(triton_tiling, "shared_memory_bytes", lambda: H100)

  def pointwise(params, carry, gates):
    h = jnp.sort(gates[0], -1)
    return (h,), h

  def init(key, D):
    return init_gates(key, D, H, 1)

  def initial_carry(x):
    return (zeros_like_batch(x, H),)

  cell = Cell("sorting", H, init, initial_carry, **additive(pointwise, 1))
  reason = triton_failure_reason(cell)
  assert "the pointwise function of sorting does not become a kernel: " in reason


def test_branchless_tanh_is_accurate():
  """It agrees with tanh from zero to infinity, its derivative too, also in a jitted function."""
  x = np.concatenate([np.logspace(-20, 2, 4001), [0, 0.4, np.inf]]).astype(np.float32)
  x = np.concatenate([-x, x])
  expected = np.tanh(np.float64(x))
  np.testing.assert_allclose(branchless_tanh(x), expected, rtol=4e-7, atol=1e-30)
  replaced = replace_tanh(lambda x: jax.jit(jnp.tanh)(x) + jax.nn.relu(x))
  at = jnp.float32([-2.0, 0.1, 3.0])
  np.testing.assert_allclose(replaced(at), np.tanh(at) + np.maximum(at, 0), rtol=4e-7)
  slope = jax.vmap(jax.grad(branchless_tanh))(at)
  np.testing.assert_allclose(slope, 1 - np.tanh(np.float64(at)) ** 2, rtol=0, atol=5e-7)


def test_unroll_bidirectional_equals_two_unrolls():
  """With carries, lengths and remat, on a backend that runs one direction after the other."""
  case, draw = FORMS[1], np.random.default_rng(3)
  forward = case.params(np.float32)
  reverse = {name: draw.normal(0, 0.5, p.shape).astype(np.float32) for name, p in forward.items()}
  xs, carry = random_inputs(dtype=np.float32), case.carry(dtype=np.float32)
  results = unroll_bidirectional(
    case.cell, (forward, reverse), xs, LENGTHS, carries=(carry, None), remat=4
  )
  expected = [
    unroll(case.cell, forward, xs, LENGTHS, carry=carry),
    unroll(case.cell, reverse, xs, LENGTHS, reverse=True),
  ]
  assert_trees_close(results, expected, 1e-6)


@over_kernels
def test_empty_batch(name):
  """A batch without rows returns empty arrays."""
  params, xs = gru(H).init(jax.random.key(0), D), jnp.zeros((T, 0, D))
  (h,), ys = unroll(gru(H), params, xs, np.zeros(0, int), backend=f"{name} interpreted")
  assert h.shape == (0, H) and ys.shape == (T, 0, H)
