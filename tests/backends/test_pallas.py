"""Kernels that walk time on a chip: interpreted, they are the loop; they lower for the chips."""

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

H100 = 227 * 1024
KERNELS = {
  "triton": functools.partial(triton_tiling.make_triton_spec, H100),
  "mosaic": mosaic_tiling.make_mosaic_spec,
}
ADDITIVE = [case for case in CASES if case.cell.pointwise and "cells" not in case.cell.name]
for name, make in KERNELS.items():
  BACKENDS[f"{name} interpreted"] = functools.partial(
    make_kernel_backend, functools.partial(make, True), why_unsupported
  )

SETTINGS = {  # reverse, lengths, type, precision
  "forward": (False, None, np.float32, 2e-6),
  "ragged": (False, LENGTHS, np.float32, 2e-6),
  "reverse": (True, LENGTHS, np.float32, 2e-6),
  "bfloat16": (True, LENGTHS, jnp.bfloat16, 2**-5),
}
over_kernels = pytest.mark.parametrize("name", KERNELS)
over_cells = pytest.mark.parametrize("case", ADDITIVE, ids=[case.cell.name for case in ADDITIVE])


def assert_trees_close(got, expected, atol):
  """To a precision relative to the largest number."""
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    a, b = jnp.float32(a), jnp.float32(b)
    np.testing.assert_allclose(a, b, rtol=0, atol=atol * max(1, abs(b).max()))


@over_kernels
@over_cells
@pytest.mark.parametrize("way", SETTINGS)
def test_interpreted_kernels_equal_scan(case, name, way):
  """Outputs, carry and all gradients, NaN past a row's end; bfloat16 beside scan in float32."""
  reverse, lengths, dtype, precision = SETTINGS[way]
  cast = functools.partial(jax.tree.map, lambda a: jnp.asarray(a, dtype))
  params, xs = cast((case.params(), random_inputs()))
  carry = case.carry(dtype=np.float32)
  full = jax.tree.map(jnp.float32, (params, xs))
  if lengths is not None:
    xs = jnp.where((np.arange(T)[:, None] < lengths)[..., None], xs, jnp.nan)
  (_, (_, ys)), dparams = value_and_gradients(
    case.cell, params, xs, lengths, carry, reverse, backend=f"{name} interpreted"
  )
  (_, (_, expected)), true = value_and_gradients(
    case.cell, *full, lengths, carry, reverse, backend="scan"
  )
  assert ys.dtype == dtype
  assert_trees_close((ys, dparams), (expected, true), precision)


@over_kernels
@pytest.mark.parametrize("merge", ["concat", "sum"])
def test_bidirectional_layer_in_one_launch(name, merge):
  """A bidirectional layer runs as one net beside another, and is what two loops are."""
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
  """No batch axis, two of them, many rows, one step, and chunks that are computed again."""
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
    value_and_gradients(case.cell, params, xs, LENGTHS, carry, True, 4, how)
    for how in (options["backend"], "scan")
  )
  assert_trees_close(*both, 1e-6)


@over_kernels
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sharded_batch_equals_scan(name, kind):
  """Where a mesh cuts the batch, outputs and gradients are those of the loop on one device."""
  case, xs, lengths = FORMS[0], random_inputs(batch=(4,), dtype=np.float32), np.array([T, 0, 3, 1])
  params, carry = case.params(np.float32), case.carry((4,), dtype=np.float32)
  expected = value_and_gradients(case.cell, params, xs, lengths, carry, backend="scan")
  mesh = jax.make_mesh((2,), ("batch",), axis_types=(kind,), devices=jax.devices()[:2])
  with jax.set_mesh(mesh):
    xs = jax.device_put(xs, PartitionSpec(None, "batch"))
    got = value_and_gradients(case.cell, params, xs, lengths, carry, backend=f"{name} interpreted")
  assert_trees_close(jax.device_get(got), expected, 1e-6)


@pytest.mark.parametrize("cell", [lstm(48, peepholes=True), gru(40)], ids=str)
def test_units_split_over_programs_equal_scan(cell):
  """Several programs, each with its own units, step by step: what each gets of the others is there,
  as they are interpreted one after another."""
  tiles = Tiling(16, 16, 16)
  make = lambda *args: make_kernel_spec(*args, tiles, *interpreted)
  interpreted = [
    functools.partial(way, interpret=True) for way in (triton.forward, triton.backward)
  ]
  draw = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  params = jax.tree.map(lambda p: draw.normal(0, 0.4, p.shape).astype(np.float32), shapes)
  xs = random_inputs(dtype=np.float32)
  carry, outputs = cell.initial_carry(jnp.asarray(xs[0])), []
  for t in range(T):
    alive = jnp.asarray(t < LENGTHS)[None]
    ((carry, ys),) = run_fused(make, cell, (params,), xs[t : t + 1], alive, (carry,), (False,))
    outputs.append(ys)
  expected = unroll(cell, params, xs, LENGTHS, backend="scan")
  assert_trees_close((carry, jnp.concatenate(outputs)), expected, 1e-6)


@over_cells
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name, platform", [("triton", "cuda"), ("mosaic", "tpu")])
def test_lowers_for_gpu_and_tpu(case, name, platform, dtype):
  """Both kernels of a training step become programs of the chip, without one at hand."""
  calls = count_kernels(case.cell, case.params(), name, platform, dtype)
  assert calls == 2


@pytest.mark.parametrize("cell", [lstm(256, peepholes=True), gru(200)], ids=str)
@pytest.mark.parametrize("name, platform", [("triton", "cuda"), ("mosaic", "tpu")])
def test_lowers_with_units_split_over_programs(cell, name, platform):
  """So do kernels of wide cells."""
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  assert count_kernels(cell, params, name, platform, jnp.float32) == 2


def count_kernels(cell, params, name, platform, dtype) -> int:
  """How many kernels a training step of both directions has when it is lowered."""
  shape = lambda *sizes, dtype=dtype: jax.ShapeDtypeStruct(sizes, dtype)
  params = {key: shape(*p.shape) for key, p in params.items()}
  make, reverse = functools.partial(KERNELS[name], False), (False, True)

  def loss(params, xs, alive):
    carries = (cell.initial_carry(xs[0]),) * 2
    ends = run_fused(make, cell, (params,) * 2, xs, alive, carries, reverse)
    return sum(jnp.float32(leaf).sum() for leaf in jax.tree.leaves(ends))

  traced = jax.jit(jax.grad(loss, (0, 1))).trace(params, shape(T, 3, D), shape(T, 3, dtype=bool))
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  return text.count({"cuda": "xla.gpu.triton", "tpu": "tpu_custom_call"}[platform])


def test_backends_say_why_unavailable():
  """Each backend says why it cannot; auto never fails, and one that is asked for by name does."""
  xs = jnp.asarray(random_inputs(dtype=np.float32))
  why = lambda cell, xs=xs, **changes: backend_status(
    cell, cell.init(jax.random.key(0), D) | changes, xs
  )
  assert "NVIDIA GPU" in why(lstm(H))["triton"] and "a TPU" in why(lstm(H))["mosaic"]
  for name in ("triton", "mosaic"):
    assert (
      "pointwise function, and gru(5, reset='before') has none" in why(gru(H, reset="before"))[name]
    )
    assert "float32 or bfloat16; got float16" in why(lstm(H), xs.astype(jnp.float16))[name]
    strange = why(lstm(H), gain=jnp.ones(3))[name]
    assert "parameters [H] or [n, H]" in strange and "gain of lstm(5) is [3]" in strange
    with pytest.raises(ValueError, match=f"backend='{name}' cannot run this: it needs a"):
      unroll(lstm(H), lstm(H).init(jax.random.key(0), D), xs, backend=name)
  wide, narrow = why(lstm(H))["deferred"], why(vanilla(H))["scan"]
  assert wide == narrow == ""


def test_tiles_fit_shared_memory():
  """Whatever the width, shares of U fit and tile the units; those that cannot are refused."""
  for size in (1, 5, 16, 33, 100, 128, 200, 256, 300, 512, 1000):
    for gates in (1, 3, 4):
      cut = triton_tiling.choose_tiling(size, gates, 4, H100)
      if cut:
        width = cut.padded_size(size)
        assert width % cut.block_units == 0 and width * cut.block_units * gates * 4 <= H100
      else:
        assert 16 * gates * size * 4 > H100 / 2
  assert triton_tiling.choose_tiling(256, 4, 4, H100) == Tiling(16, 32, 128)
  assert (
    triton_tiling.choose_tiling(2048, 4, 4, H100) is None
    and mosaic_tiling.choose_tiling(1024, 4, 0, 4) is None
  )


def test_number_of_program_rounds(monkeypatch):
  """Sixteen rows and some units a program, two programs a processor where they fit: by hand."""

  class Device:
    compute_capability, core_count = "9.0", 132

  monkeypatch.setattr(jax, "devices", lambda: [Device])
  count = lambda cell, B, dtype=jnp.float32: triton_tiling.num_waves(
    cell,
    jax.eval_shape(lambda: cell.init(jax.random.key(0), D)),
    jax.ShapeDtypeStruct((T, B, D), dtype),
  )
  assert count(lstm(128), 64) == 4 * 4 / 264  # 128 x 144 numbers are 72 KiB
  assert count(lstm(256), 256) == 8 * 16 / 132  # 144 KiB
  assert count(lstm(512), 256) == 32 * 16 / 132  # 16 units, 160 KiB
  assert count(gru(512), 100) == 32 * 7 / 132
  assert count(lstm(256), 64, jnp.bfloat16) == 8 * 4 / 264


def triton_failure_reason(cell):
  """What is said of a cell's pointwise function."""
  triton_tiling._lowering_error.cache_clear()
  params = jax.eval_shape(lambda: cell.init(jax.random.key(0), D))
  shapes = tuple((name, p.shape) for name, p in sorted(params.items()))
  return triton_tiling._lowering_error(cell, shapes, "float32")


def test_triton_check_works_under_jit_and_mesh(monkeypatch):
  """Of a known cell nothing is said: at the top, in what is jitted, on a mesh, in both."""
  monkeypatch.setattr(triton_tiling, "shared_memory_bytes", lambda: H100)
  found = [triton_failure_reason(lstm(H))]
  ask = jax.jit(lambda x: (found.append(triton_failure_reason(lstm(H))), x)[1])
  ask(1.0)
  with jax.set_mesh(jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Auto,))):
    found.append(triton_failure_reason(lstm(H)))
    ask(jnp.ones(2))
  assert found == [""] * 4


def test_unsupported_pointwise_function_gives_reason(monkeypatch):
  """A function that Triton does not know is a reason, with the name of the cell; not a crash."""
  monkeypatch.setattr(triton_tiling, "shared_memory_bytes", lambda: H100)

  def tick(params, carry, gates):
    h = jnp.sort(gates[0], -1)
    return (h,), h

  begin = lambda key, D: init_gates(key, D, H, 1)
  cell = Cell("sorting", H, begin, lambda x: (zeros_like_batch(x, H),), **additive(tick, 1))
  assert "the pointwise function of sorting does not become a kernel: " in triton_failure_reason(
    cell
  )


def test_branchless_tanh_is_accurate():
  """It is tanh to a few units in the last place, zero, infinity and all between, and so is its
  derivative; also inside a function that another one calls by jit."""
  x = np.concatenate([np.logspace(-20, 2, 4001), [0, 0.4, np.inf]]).astype(np.float32)
  x = np.concatenate([-x, x])
  true = np.tanh(np.float64(x))
  np.testing.assert_allclose(branchless_tanh(x), true, rtol=4e-7, atol=1e-30)
  inner = replace_tanh(lambda x: jax.jit(jnp.tanh)(x) + jax.nn.relu(x))
  at = jnp.float32([-2.0, 0.1, 3.0])
  np.testing.assert_allclose(inner(at), np.tanh(at) + np.maximum(at, 0), rtol=4e-7)
  slope = jax.vmap(jax.grad(branchless_tanh))(at)
  np.testing.assert_allclose(slope, 1 - np.tanh(np.float64(at)) ** 2, rtol=0, atol=5e-7)


def test_unroll_both_equals_two_unrolls():
  """On a backend that takes turns, too, with carries, lengths and remat."""
  case, draw = FORMS[1], np.random.default_rng(3)
  one = case.params(np.float32)
  two = {name: draw.normal(0, 0.5, p.shape).astype(np.float32) for name, p in one.items()}
  xs, carry = random_inputs(dtype=np.float32), case.carry(dtype=np.float32)
  ends = unroll_bidirectional(case.cell, (one, two), xs, LENGTHS, carries=(carry, None), remat=4)
  ahead = unroll(case.cell, one, xs, LENGTHS, carry=carry)
  back = unroll(case.cell, two, xs, LENGTHS, reverse=True)
  assert_trees_close(ends, [ahead, back], 1e-6)


@over_kernels
def test_empty_batch(name):
  """Of no row there is nothing to launch."""
  params, xs = gru(H).init(jax.random.key(0), D), jnp.zeros((T, 0, D))
  (h,), ys = unroll(gru(H), params, xs, np.zeros(0, int), backend=f"{name} interpreted")
  assert h.shape == (0, H) and ys.shape == (T, 0, H)
