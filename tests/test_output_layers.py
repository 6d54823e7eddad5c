"""Output layers of a language model, compared with their definition in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rnnjax import chunked_cross_entropy, output_layers

T, B, D, V = 5, 4, 6, 23
CUTS = (5, 11)
LAYERS = {
  "full": output_layers.full_softmax(V),
  "adaptive": output_layers.adaptive_softmax(V, CUTS, div_value=2),
  "one tail": output_layers.adaptive_softmax(V, (22,)),
}
over_layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=str)
in_float64 = pytest.mark.usefixtures("float64")


@pytest.fixture(params=[8, 16, 2_000])
def chunk_rows(request, monkeypatch):
  """Set the rows of a chunk: 8 and 16 do not divide T·B evenly, 2,000 is one chunk."""
  monkeypatch.setattr(chunked_cross_entropy, "CHUNK_LOGITS", 0)
  monkeypatch.setattr(chunked_cross_entropy, "MIN_CHUNK_ROWS", request.param)


def random_inputs(layer, T=T, dtype=float):
  """Return params away from 0, hs, labels and weights, some of which are 0."""
  draw = np.random.default_rng(0)
  params = jax.tree.map(lambda p: draw.normal(0, 0.5, p.shape), layer.init(jax.random.key(0), D))
  hs, labels = draw.normal(size=(T, B, D)), draw.integers(0, V, (T, B))
  weights = draw.uniform(0, 2, (T, B)) * (draw.random((T, B)) < 0.8)
  cast = lambda a: jnp.asarray(a, dtype)
  return jax.tree.map(cast, params), cast(hs), jnp.asarray(labels), cast(weights)


def reference_probs(params, h):
  """Return p [V] of one step, from the definition."""

  def softmax(z):
    return np.exp(z) / np.exp(z).sum()

  p = {key: np.asarray(value, np.float64) for key, value in params.items()}
  head = softmax(np.array([w @ h + b for w, b in zip(p["W"], p["b"])]))
  num_tails = sum(key[0] == "P" for key in p)
  probs = list(head[: len(head) - num_tails])
  for i in range(num_tails):
    z = [w @ (h @ p[f"P{i}"]) + b for w, b in zip(p[f"W{i}"], p[f"b{i}"])]
    probs += list(head[len(head) - num_tails + i] * softmax(np.array(z)))
  return np.array(probs)


def reference_loss(params, hs, labels, weights):
  """Return the loss, computed step by step."""
  hs, labels, weights = (np.asarray(a).reshape(-1, *a.shape[2:]) for a in (hs, labels, weights))
  steps = zip(hs, labels, weights)
  return sum(-w * np.log(reference_probs(params, h)[label]) for h, label, w in steps if w)


def full_logits_loss(layer, params, hs, labels, weights):
  """Return the loss, computed from all logits at once."""
  log_p = jax.nn.log_softmax(layer.logits(params, hs))
  return -(weights * jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]).sum()


def loss_and_gradients(loss, *args):
  """Return the loss and its gradients with respect to params and hs."""
  return jax.jit(jax.value_and_grad(loss, (0, 1)))(*args)


def assert_trees_close(got, expected, rtol=1e-10):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@in_float64
@over_layers
def test_loss_and_probabilities_equal_reference(layer, chunk_rows):
  """Loss and probabilities equal the NumPy reference; the probabilities sum to 1."""
  args = params, hs, *_ = random_inputs(layer)
  np.testing.assert_allclose(layer.loss(*args), reference_loss(*args), rtol=1e-12)
  p = np.asarray(jax.nn.softmax(layer.logits(params, hs)))
  np.testing.assert_allclose(p[2, 3], reference_probs(params, np.asarray(hs[2, 3])), rtol=1e-12)
  if layer is not LAYERS["full"]:
    np.testing.assert_allclose(np.exp(layer.logits(params, hs)).sum(-1), 1, rtol=1e-12)


@in_float64
@over_layers
def test_gradients_equal_full_logits(layer, chunk_rows):
  """Gradients equal those of the full logits and finite differences."""
  args = params, hs, *_ = random_inputs(layer)
  got = loss_and_gradients(layer.loss, *args)
  assert_trees_close(got, loss_and_gradients(functools.partial(full_logits_loss, layer), *args))
  direction = jax.tree.map(jnp.sin, (params, hs))
  loss_at = lambda ε: layer.loss(
    *jax.tree.map(lambda a, d: a + ε * d, (params, hs), direction), *args[2:]
  )
  slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), got[1], direction)))
  np.testing.assert_allclose((loss_at(1e-5) - loss_at(-1e-5)) / 2e-5, slope, rtol=1e-7)


@in_float64
@over_layers
def test_scaled_loss_scales_gradients(layer):
  """A factor of the loss is a factor of the gradients."""
  args = random_inputs(layer)
  scaled = loss_and_gradients(lambda *args: -2.0 * layer.loss(*args), *args)
  assert_trees_close(
    scaled, jax.tree.map(lambda a: -2.0 * a, loss_and_gradients(layer.loss, *args))
  )


@in_float64
@over_layers
@pytest.mark.parametrize("word", [0, CUTS[0], CUTS[1], V - 1])
def test_labels_in_one_cluster(layer, word, chunk_rows):
  """All labels are in the head or in one tail; the other clusters get the correct gradient."""
  params, hs, _, weights = random_inputs(layer)
  args = params, hs, jnp.full((T, B), word), weights
  assert_trees_close(
    loss_and_gradients(layer.loss, *args),
    loss_and_gradients(functools.partial(full_logits_loss, layer), *args),
  )


@in_float64
@over_layers
def test_zero_weight_steps_are_ignored(layer, chunk_rows):
  """Steps of weight 0 may have any value and label; if all weights are 0, so is the loss."""
  params, hs, labels, weights = random_inputs(layer)
  ignored = weights == 0
  invalid = jnp.where(ignored[..., None], 1e6, hs), jnp.where(ignored, -(10**6), labels), weights
  expected = loss_and_gradients(layer.loss, params, hs, labels, weights)
  assert_trees_close(loss_and_gradients(layer.loss, params, *invalid), expected)
  all_ignored = loss_and_gradients(layer.loss, params, hs, labels, jnp.zeros((T, B)))
  assert_trees_close(all_ignored, jax.tree.map(jnp.zeros_like, all_ignored))


@in_float64
@over_layers
@pytest.mark.parametrize("batch", [(), (2, 2), (0,)])
def test_batch_axes(layer, batch):
  """There may be any number of batch axes, and they may be empty."""
  params, hs, labels, weights = random_inputs(layer)
  size = int(np.prod(batch))
  hs, labels, weights = (
    a[:, :size].reshape(T, *batch, *a.shape[2:]) for a in (hs, labels, weights)
  )
  args = params, hs, labels, weights
  assert_trees_close(
    loss_and_gradients(layer.loss, *args),
    loss_and_gradients(functools.partial(full_logits_loss, layer), *args),
  )


@in_float64
@over_layers
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_four_devices_equal_one(layer, axis_type, chunk_rows):
  """Four devices with 19 rows each give the result of one device."""
  args, P = random_inputs(layer, T=19), PartitionSpec
  expected = loss_and_gradients(layer.loss, *args)
  with jax.set_mesh(jax.make_mesh((4,), ("batch",), axis_types=(axis_type,))):
    specs = P(), *[P(None, "batch")] * 3
    assert_trees_close(loss_and_gradients(layer.loss, *map(jax.device_put, args, specs)), expected)


@over_layers
@pytest.mark.parametrize("min_rows, expected", [(10, False), (20, True)])
def test_all_logits_are_never_materialized(layer, min_rows, expected, monkeypatch):
  """No array of the loss or its gradient has the size of all logits, unless they are one chunk."""
  monkeypatch.setattr(chunked_cross_entropy, "CHUNK_LOGITS", 0)
  monkeypatch.setattr(chunked_cross_entropy, "MIN_CHUNK_ROWS", min_rows)
  args = random_inputs(layer, dtype=jnp.float32)
  for f in (lambda *args: layer.loss(*args), jax.value_and_grad(layer.loss, (0, 1))):
    text = jax.jit(f).lower(*args).as_text()
    assert (f"tensor<{T * B}x{args[0]['W'].shape[0]}xf32>" in text) == expected


@over_layers
def test_bfloat16_is_summed_in_float32(layer, chunk_rows):
  """Logits and gradients are summed in float32; gradients have the dtypes of the arguments."""
  args = random_inputs(layer, dtype=jnp.float32)
  half = args[0], args[1].astype(jnp.bfloat16), *args[2:]
  loss, (dparams, dhs) = loss_and_gradients(layer.loss, *half)
  assert loss.dtype == dparams["W"].dtype == jnp.float32 and dhs.dtype == jnp.bfloat16
  expected, (dW, _) = loss_and_gradients(layer.loss, *args)
  np.testing.assert_allclose(loss, expected, rtol=0.02)
  np.testing.assert_allclose(dparams["W"], dW["W"], atol=0.05)


@pytest.mark.parametrize("chunk_rows", [30], indirect=True)
def test_uint8_labels_equal_int32(chunk_rows):
  """A vocabulary of more than 256 words works with uint8 labels."""
  draw, layer = np.random.default_rng(0), output_layers.full_softmax(300)
  params = {"W": jnp.float32(draw.normal(size=(300, 3))), "b": jnp.zeros(300)}
  hs, labels = jnp.float32(draw.normal(size=(50, 4, 3))), draw.integers(0, 256, (50, 4))
  f = lambda dtype: loss_and_gradients(
    layer.loss, params, hs, labels.astype(dtype), jnp.ones((50, 4))
  )
  assert_trees_close(f(np.uint8), f(np.int32), 1e-6)


def test_large_logits():
  """Logits of ±1000 do not overflow, and their gradient is exact."""
  layer = output_layers.full_softmax(3)
  params = {"W": jnp.array([[1000.0], [-1000.0], [0.0]]), "b": jnp.zeros(3)}
  args = params, jnp.ones((1, 1, 1)), jnp.ones((1, 1), int), jnp.ones((1, 1))
  loss, (_, dhs) = loss_and_gradients(layer.loss, *args)
  assert loss == 2000 and dhs[0, 0, 0] == 2000


def test_tied_embedding_gradient():
  """If W is an embedding table, its gradient is the sum over both uses."""
  table, layer = jnp.linspace(-1, 1, 12).reshape(4, 3), output_layers.full_softmax(4)
  labels, weights = jnp.array([[0, 3], [2, 2]]), jnp.ones((2, 2))
  tied_loss = lambda loss, w: loss({"W": w, "b": jnp.zeros(4)}, w[labels], labels, weights)
  got, expected = (
    jax.grad(functools.partial(tied_loss, f))(table)
    for f in (layer.loss, functools.partial(full_logits_loss, layer))
  )
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_equal_arguments_return_same_layer():
  """Factories are cached, and repr() shows the arguments."""
  assert (
    output_layers.full_softmax(9) is output_layers.full_softmax(9)
    and str(output_layers.full_softmax(9)) == "full(9)"
  )
  layer = output_layers.adaptive_softmax(V, CUTS)
  assert layer is output_layers.adaptive_softmax(V, CUTS) and str(layer) == "adaptive(23, (5, 11))"
  assert str(LAYERS["adaptive"]) == "adaptive(23, (5, 11), div_value=2)"


@pytest.mark.parametrize("cutoffs", [(), (0,), (-1, 3), (5, 5), (7, 5), (23,), (5, 30)])
def test_invalid_cutoffs_raise(cutoffs):
  with pytest.raises(ValueError, match=r"strictly increasing.*less than vocab_size=23.*got \("):
    output_layers.adaptive_softmax(V, cutoffs)


def test_invalid_sizes_raise():
  """An empty vocabulary, div_value below 1, and labels of another shape than hs raise."""
  with pytest.raises(ValueError, match=r"positive integer.*got 0"):
    output_layers.full_softmax(0)
  with pytest.raises(ValueError, match=r"div_value.*got 0"):
    output_layers.adaptive_softmax(V, CUTS, div_value=0)
  params, hs, labels, weights = random_inputs(LAYERS["full"], dtype=jnp.float32)
  with pytest.raises(ValueError, match=r"label and a weight for each step.*\(5, 4, 6\).*\(4,\)"):
    LAYERS["full"].loss(params, hs, labels[0], weights)
