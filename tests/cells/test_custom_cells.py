"""Cells and calls that are a user's own: other carries, other parameters, other surroundings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from rnnjax import gru, lstm, unroll, vanilla
from rnnjax.cells.base import Cell, cell_factory, init_dense, zeros_like_batch
from rnnjax.testing import check_cell
from rnnjax.unroll import backend_status

KEY = jax.random.key(0)
T, B, D = 5, 4, 3
XS, LENGTHS = jax.random.normal(KEY, (T, B, D)), np.array([5, 0, 2, 3])


@cell_factory
def fast_weights(features):
  """A carry with a matrix: Aₜ = 0.9 Aₜ₋₁ + vₜ kₜᵀ, hₜ = Aₜ qₜ."""

  def start(x):
    h = zeros_like_batch(x, features)
    return h, jnp.broadcast_to(h[..., None], (*h.shape, features))

  def step(params, carry, u):
    q, k, v = jnp.split(u, 3, -1)
    A = 0.9 * carry[1] + v[..., :, None] * k[..., None, :]
    h = (A @ q[..., None])[..., 0]
    return (h, A), h

  init = lambda key, D: init_dense(jax.random.split(key, 3), D, features)
  project = lambda params, x: x @ params["W"] + params["b"]
  return dict(init=init, initial_carry=start, project=project, step=step)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("H", [B, B + 1])  # of B, an axis too many would fit
@pytest.mark.parametrize("backend", ["auto", "scan"])
def test_matrix_carry(backend, H):
  """Each row ends, and learns, as if it were alone."""
  cell, xs = fast_weights(H), jnp.float64(XS)
  params = jax.tree.map(jnp.float64, cell.init(KEY, D))

  def together(params):
    carry, ys = unroll(cell, params, xs, LENGTHS, backend=backend)
    return sum(jnp.sin(leaf).sum() for leaf in (*carry, ys))

  def each(params):
    ends = [unroll(cell, params, xs[:n, b], backend="scan") for b, n in enumerate(LENGTHS)]
    return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(ends))

  found, true = (jax.value_and_grad(f)(params) for f in (together, each))
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(true), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
  check_cell(cell)
  assert "a carry of vectors" in backend_status(cell, params, xs)["newton"]


@pytest.mark.parametrize(
  "how", [dict(), dict(backend="scan"), dict(remat=8), dict(remat=1), dict(remat=1, backend="scan")]
)
def test_bfloat16_gradients_are_summed_in_float32(how):
  """In bfloat16 the gradients of 1,024 steps are those of float32 but for its eight bits."""
  cell = vanilla(8)
  params = cell.init(KEY, D) | {"U": 0.3 * cell.init(KEY, D)["U"]}
  xs = jax.random.uniform(KEY, (1024, 2, D))
  total = lambda params, xs: unroll(cell, params, xs, **how)[1].astype(jnp.float32).sum()
  true, found = (jax.grad(total)(params, xs.astype(dtype)) for dtype in (jnp.float32, jnp.bfloat16))
  for name in true:
    assert jnp.linalg.norm(found[name] - true[name]) < 0.01 * jnp.linalg.norm(true[name]), name


def test_integer_and_complex_params():
  """Whole numbers and complex ones stay what they are, in bfloat16, too."""

  def project(params, x):
    return abs(x[..., params["order"]] @ params["W"])

  def step(params, carry, u):
    return ((h := jnp.tanh(u + carry[0])),), h

  W = jax.lax.complex(*jax.random.normal(KEY, (2, D, D)))
  cell = Cell("own", D, lambda key, D: {}, lambda x: (zeros_like_batch(x, D),), project, step)
  params = {"W": W, "order": jnp.array([2, 0, 1])}
  _, ys = unroll(cell, params, XS)
  expected = np.cumsum(np.abs(XS[..., [2, 0, 1]] @ W), 0)[0]
  np.testing.assert_allclose(ys[0], np.tanh(expected), rtol=1e-5)
  assert "needs floating parameters" in backend_status(cell, params, XS)["deferred"]
  gradient = jax.grad(lambda W: unroll(cell, params | {"W": W}, XS)[1].sum())(W)
  assert jnp.isfinite(gradient).all() and jnp.iscomplexobj(gradient)


def test_factory_first_called_inside_jit():
  """Arrays that it makes are a cell's for ever."""

  @cell_factory
  def leaky(features):
    rates = jnp.linspace(0.1, 0.9, features)
    step = lambda params, carry, u: ((h := carry[0] + rates * (u - carry[0]),), h)
    return dict(
      init=lambda key, D: {},
      initial_carry=lambda x: (zeros_like_batch(x, features),),
      project=lambda params, x: x,
      step=step,
    )

  run = lambda xs: unroll(leaky(D), {}, xs)[1]
  inside = jax.jit(run)(XS)
  np.testing.assert_allclose(run(XS), inside, rtol=1e-6)
  np.testing.assert_allclose(run(XS[:2]), inside[:2], rtol=1e-6)


@pytest.mark.parametrize(
  "how", [dict(), dict(backend="scan"), dict(remat=2), dict(backend="newton")]
)
def test_unroll_inside_shard_map(how):
  """A carry of plain zeros beside rows that are cut, and nets that differ among devices."""
  cell, P = gru(4), PartitionSpec
  params, mesh = cell.init(KEY, D), jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
  given = lambda params, xs: unroll(cell, params, xs, carry=(jnp.zeros((1, 4)),), **how)[1]
  rows = P(None, "batch")
  cut = jax.shard_map(given, mesh=mesh, in_specs=(P(), rows), out_specs=rows)
  plain = lambda params: unroll(cell, params, XS, backend="scan")[1]
  np.testing.assert_allclose(jax.jit(cut)(params, XS), plain(params), rtol=0, atol=1e-5)
  nets = [jax.tree.map(lambda p, k=k: k * p, params) for k in (1.0, 0.5, 2.0, -1.0)]
  own = lambda net, xs: unroll(cell, jax.tree.map(lambda p: p[0], net), xs, **how)[1][None]
  apart = jax.shard_map(own, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch"))
  found = jax.jit(apart)(jax.tree.map(lambda *ps: jnp.stack(ps), *nets), XS)
  np.testing.assert_allclose(found, [plain(net) for net in nets], rtol=0, atol=1e-5)


def test_vmap_over_rows_does_not_copy_weights():
  """Rows that vmap adds are rows of the same products: no weight is copied for each."""
  cell = lstm(32)
  params, xs = cell.init(KEY, 16), jnp.zeros((7, 50, 16))
  one = lambda params, xs: unroll(cell, params, xs)[1].sum()
  total = lambda params: jax.vmap(one, (None, 1))(params, xs).sum()
  assert "50,32,128]" not in str(jax.make_jaxpr(total)(params)).replace(" ", "")


@cell_factory
def communicating(features):
  """hₜ = tanh(xₜ W + hₜ₋₁ U + mean over the batch of hₜ₋₁ V): agents that hear one another."""

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

  return dict(
    init=init, initial_carry=lambda x: (zeros_like_batch(x, features),), project=project, step=step
  )


@cell_factory
def convolutional(features):
  """A recurrent cell with one spatial axis: xs [T, B, X, D], hₜ = tanh(conv(xₜ) + conv(hₜ₋₁))."""

  def init(key, D):
    keys = jax.random.split(key, 2)
    W = jax.random.normal(keys[0], (3, D, features)) / 3
    return {"W": W, "U": jax.random.normal(keys[1], (3, features, features)) / 3}

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )

  def step(params, carry, u):
    h = jnp.tanh(u + convolve(carry[0], params["U"]))
    return (h,), h

  return dict(
    init=init,
    initial_carry=lambda x: (zeros_like_batch(x, features),),
    project=lambda params, x: convolve(x, params["W"]),
    step=step,
  )


MIXING = {"batch mean": (communicating(3), (4,)), "convolution": (convolutional(3), (4, 5))}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("options", [dict(), dict(remat=2), dict(reverse=True)], ids=str)
@pytest.mark.parametrize("name", MIXING)
def test_cells_that_mix_rows_have_the_gradients_of_finite_differences(name, options):
  """Each backend that accepts such a cell applies its functions to one time step at a time."""
  cell, batch = MIXING[name]
  params = jax.tree.map(jnp.float64, cell.init(KEY, D))
  xs = jax.random.normal(KEY, (T, *batch, D), jnp.float64)
  run = lambda params, xs: unroll(cell, params, xs, LENGTHS, **options)[1]
  check_grads(run, (params, xs), order=1, modes=["rev"], eps=1e-5, atol=1e-6, rtol=1e-6)
  assert backend_status(cell, params, xs)["deferred"] == ""
  assert "mixes rows" in backend_status(cell, params, xs)["newton"]


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_cells_that_mix_rows_are_not_split_over_devices(axis_type):
  """On a mesh the rows of a batch still depend on rows of other devices."""
  cell, (B,) = MIXING["batch mean"]
  params, xs = cell.init(KEY, D), jax.random.normal(KEY, (T, B, D))
  loss = lambda params, xs: jnp.sin(unroll(cell, params, xs)[1]).sum()
  expected = jax.grad(loss)(params, xs)
  mesh = jax.make_mesh((4,), ("batch",), axis_types=(axis_type,))
  with jax.set_mesh(mesh):
    sharded = jax.device_put(xs, NamedSharding(mesh, PartitionSpec(None, "batch")))
    got = jax.jit(jax.grad(loss))(params, sharded)
  for name in expected:
    np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-5)


def test_check_cell_covers_cells_that_mix_rows():
  """Such a cell passes if it says so, and is refused by default."""
  check_cell(convolutional(3), batch_shape=(3, 4))
  check_cell(communicating(3), mixes_rows=True)
  with pytest.raises(AssertionError, match=r"depends on the other rows.*mixes_rows=True"):
    check_cell(communicating(3))
