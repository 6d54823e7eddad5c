"""Custom cells: matrix carries, integer and complex parameters, vmap, shard_map, mixed rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from rnnjax import gru, lstm, unroll, vanilla
from rnnjax.cells import Cell, cell_factory, init_dense, project, zero_carry
from rnnjax.cells.base import zeros_like_batch
from rnnjax.testing import check_cell
from rnnjax.unroll import backend_status

KEY = jax.random.key(0)
T, B, D = 5, 4, 3
XS, LENGTHS = jax.random.normal(KEY, (T, B, D)), np.array([5, 0, 2, 3])


@cell_factory
def fast_weights(features):
  """Build a cell with a matrix in its carry: Aₜ = 0.9 Aₜ₋₁ + vₜ kₜᵀ, hₜ = Aₜ qₜ."""

  def init(key, D):
    return init_dense(jax.random.split(key, 3), D, features)

  def initial_carry(x):
    h = zeros_like_batch(x, features)
    return h, jnp.broadcast_to(h[..., None], (*h.shape, features))

  def step(params, carry, u):
    q, k, v = jnp.split(u, 3, -1)
    A = 0.9 * carry[1] + v[..., :, None] * k[..., None, :]
    h = (A @ q[..., None])[..., 0]
    return (h, A), h

  return dict(init=init, initial_carry=initial_carry, project=project, step=step)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("H", [B, B + 1])  # with H = B, a mask with a wrong axis would broadcast
@pytest.mark.parametrize("backend", ["auto", "scan"])
def test_matrix_carry(backend, H):
  """Outputs and gradients of a padded batch equal those of its rows, unrolled one by one."""
  cell, xs = fast_weights(H), jnp.float64(XS)
  params = jax.tree.map(jnp.float64, cell.init(KEY, D))

  def batch_loss(params):
    carry, ys = unroll(cell, params, xs, LENGTHS, backend=backend)
    return sum(jnp.sin(leaf).sum() for leaf in (*carry, ys))

  def sum_of_row_losses(params):
    outputs = [unroll(cell, params, xs[:n, b], backend="scan") for b, n in enumerate(LENGTHS)]
    return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(outputs))

  actual, expected = (jax.value_and_grad(loss)(params) for loss in (batch_loss, sum_of_row_losses))
  for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
  check_cell(cell)
  assert "a carry of vectors" in backend_status(cell, params, xs)["newton"]


@pytest.mark.parametrize(
  "options",
  [dict(), dict(backend="scan"), dict(remat=8), dict(remat=1), dict(remat=1, backend="scan")],
)
def test_bfloat16_gradients_are_summed_in_float32(options):
  """Gradients of 1,024 steps in bfloat16 equal those in float32, up to bfloat16's eight bits."""
  cell = vanilla(8)
  params = cell.init(KEY, D) | {"U": 0.3 * cell.init(KEY, D)["U"]}
  xs = jax.random.uniform(KEY, (1024, 2, D))

  def loss(params, xs):
    return unroll(cell, params, xs, **options)[1].astype(jnp.float32).sum()

  wide, narrow = (jax.grad(loss)(params, xs.astype(dtype)) for dtype in (jnp.float32, jnp.bfloat16))
  for name in wide:
    error = jnp.linalg.norm(narrow[name] - wide[name])
    assert error < 0.01 * jnp.linalg.norm(wide[name]), name


def test_integer_and_complex_params():
  """Integer and complex parameters keep their dtypes, and complex ones get gradients."""

  def project(params, x):
    return abs(x[..., params["order"]] @ params["W"])

  def step(params, carry, u):
    h = jnp.tanh(u + carry[0])
    return (h,), h

  W = jax.lax.complex(*jax.random.normal(KEY, (2, D, D)))
  cell = Cell("custom", D, lambda key, D: {}, zero_carry(D), project, step)
  params = {"W": W, "order": jnp.array([2, 0, 1])}
  _, ys = unroll(cell, params, XS)
  expected = np.cumsum(np.abs(XS[..., [2, 0, 1]] @ W), 0)[0]
  np.testing.assert_allclose(ys[0], np.tanh(expected), rtol=1e-5)
  assert "needs floating" in backend_status(cell, params, XS)["deferred"]
  gradient = jax.grad(lambda W: unroll(cell, params | {"W": W}, XS)[1].sum())(W)
  assert jnp.isfinite(gradient).all() and jnp.iscomplexobj(gradient)


def test_factory_first_called_inside_jit():
  """Arrays that a factory creates inside jit are no tracers, so the cached cell stays usable."""

  @cell_factory
  def leaky(features):
    rates = jnp.linspace(0.1, 0.9, features)

    def step(params, carry, u):
      h = carry[0] + rates * (u - carry[0])
      return (h,), h

    return dict(
      init=lambda key, D: {},
      initial_carry=zero_carry(features),
      project=lambda params, x: x,
      step=step,
    )

  def run(xs):
    return unroll(leaky(D), {}, xs)[1]

  inside_jit = jax.jit(run)(XS)
  np.testing.assert_allclose(run(XS), inside_jit, rtol=1e-6)
  np.testing.assert_allclose(run(XS[:2]), inside_jit[:2], rtol=1e-6)


@pytest.mark.parametrize(
  "options", [dict(), dict(backend="scan"), dict(remat=2), dict(backend="newton")]
)
def test_unroll_inside_shard_map(options):
  """Inside shard_map the rows, or the parameters, may be sharded and the carry plain zeros."""
  cell, P = gru(4), PartitionSpec
  params, mesh = cell.init(KEY, D), jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))

  def reference(params):
    return unroll(cell, params, XS, backend="scan")[1]

  def run_row(params, xs):
    return unroll(cell, params, xs, carry=(jnp.zeros((1, 4)),), **options)[1]

  rows = P(None, "batch")
  by_row = jax.shard_map(run_row, mesh=mesh, in_specs=(P(), rows), out_specs=rows)
  np.testing.assert_allclose(jax.jit(by_row)(params, XS), reference(params), rtol=0, atol=1e-5)

  def run_params(params, xs):
    return unroll(cell, jax.tree.map(lambda p: p[0], params), xs, **options)[1][None]

  param_sets = [jax.tree.map(lambda p, k=k: k * p, params) for k in (1.0, 0.5, 2.0, -1.0)]
  by_params = jax.shard_map(run_params, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch"))
  ys = jax.jit(by_params)(jax.tree.map(lambda *ps: jnp.stack(ps), *param_sets), XS)
  np.testing.assert_allclose(ys, [reference(params) for params in param_sets], rtol=0, atol=1e-5)


def test_vmap_over_rows_does_not_copy_weights():
  """The gradient under vmap has no array of all rows' weight gradients [50, 32, 128]."""
  cell = lstm(32)
  params, xs = cell.init(KEY, 16), jnp.zeros((7, 50, 16))

  def loss(params):
    row_loss = jax.vmap(lambda params, xs: unroll(cell, params, xs)[1].sum(), (None, 1))
    return row_loss(params, xs).sum()

  assert "50,32,128]" not in str(jax.make_jaxpr(loss)(params)).replace(" ", "")


@cell_factory
def communicating(features):
  """Build a cell that mixes rows: hₜ = tanh(xₜ W + hₜ₋₁ U + (mean of hₜ₋₁ over the batch) V)."""

  def init(key, D):
    keys = jax.random.split(key, 3)
    return {
      "W": jax.random.normal(keys[0], (D, features)),
      "U": jax.random.normal(keys[1], (features, features)) / 2,
      "V": jax.random.normal(keys[2], (features, features)) / 2,
    }

  def project(params, x):
    return x @ params["W"] + x.mean(0, keepdims=True) @ params["W"]

  def step(params, carry, u):
    (h,) = carry
    h = jnp.tanh(u + h @ params["U"] + h.mean(0, keepdims=True) @ params["V"])
    return (h,), h

  return dict(init=init, initial_carry=zero_carry(features), project=project, step=step)


@cell_factory
def convolutional(features):
  """Build a cell with one spatial axis: xs [T, B, X, D], hₜ = tanh(conv(xₜ) + conv(hₜ₋₁))."""

  def init(key, D):
    keys = jax.random.split(key, 2)
    W = jax.random.normal(keys[0], (3, D, features)) / 3
    return {"W": W, "U": jax.random.normal(keys[1], (3, features, features)) / 3}

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )

  def project(params, x):
    return convolve(x, params["W"])

  def step(params, carry, u):
    h = jnp.tanh(u + convolve(carry[0], params["U"]))
    return (h,), h

  return dict(init=init, initial_carry=zero_carry(features), project=project, step=step)


MIXING = {"batch mean": (communicating(3), (4,)), "convolution": (convolutional(3), (4, 5))}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("options", [dict(), dict(remat=2), dict(reverse=True)], ids=str)
@pytest.mark.parametrize("name", MIXING)
def test_gradients_of_cells_that_mix_rows_equal_finite_differences(name, options):
  """Backends that accept such a cell apply its functions to one time step at a time."""
  cell, batch_shape = MIXING[name]
  params = jax.tree.map(jnp.float64, cell.init(KEY, D))
  xs = jax.random.normal(KEY, (T, *batch_shape, D), jnp.float64)

  def run(params, xs):
    return unroll(cell, params, xs, LENGTHS, **options)[1]

  check_grads(run, (params, xs), order=1, modes=["rev"], eps=1e-5, atol=1e-6, rtol=1e-6)
  assert backend_status(cell, params, xs)["deferred"] == ""
  assert "mixes rows" in backend_status(cell, params, xs)["newton"]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_cells_that_mix_rows_are_not_sharded(axis_type):
  """On a mesh, rows still depend on the rows of other devices."""
  cell, (B,) = MIXING["batch mean"]
  params, xs = cell.init(KEY, D), jax.random.normal(KEY, (T, B, D))

  def loss(params, xs):
    return jnp.sin(unroll(cell, params, xs)[1]).sum()

  expected = jax.grad(loss)(params, xs)
  mesh = jax.make_mesh((4,), ("batch",), axis_types=(axis_type,))
  with jax.set_mesh(mesh):
    sharded = jax.device_put(xs, NamedSharding(mesh, PartitionSpec(None, "batch")))
    actual = jax.jit(jax.grad(loss))(params, sharded)
  for name in expected:
    np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=1e-5)


def test_check_cell_covers_cells_that_mix_rows():
  """Such a cell passes with mixes_rows=True and fails by default."""
  check_cell(convolutional(3), batch_shape=(3, 4))
  check_cell(communicating(3), mixes_rows=True)
  with pytest.raises(AssertionError, match=r"depends on the other rows.*mixes_rows=True"):
    check_cell(communicating(3))
