"""Implementations of an RNN layer that the benchmark compares.

Each `make_<name>(cell_name, xs, H)` returns (apply_fn, params), where apply_fn(params, xs) returns
the outputs ys of an LSTM, GRU or vanilla RNN over xs [T, B, D]. Only `make_torch` returns
(forward, both) instead. Each function raises ImportError if the library is not installed, and
KeyError if the library does not have the cell.
"""

import functools
import os

import jax
import jax.numpy as jnp

from experiments.benchmarks import cudnn
from experiments.common.cells import make_cell
from rnnjax import unroll
from rnnjax.cells.base import Cell, additive, zeros_like_batch
from rnnjax.cells.initializers import init_gates


def make_from_cell(cell, xs, backend="auto"):
  """Return (apply_fn, params), where apply_fn calls `unroll` with the cell and `backend`."""
  params = cell.init(jax.random.key(0), xs.shape[-1])

  def apply_fn(params, xs):
    _, ys = unroll(cell, params, xs, backend=backend)
    return ys

  return apply_fn, params


def make_rnnjax(cell_name, xs, H, backend="auto"):
  return make_from_cell(make_cell(cell_name, H), xs, backend)


def make_custom_cell(cell_name, xs, H):
  """Return (apply_fn, params) for a user-defined cell, written with `additive`."""

  def lstm_step(params, carry, gates):
    i, f, g, o = gates
    c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h

  def gru_step(params, carry, gates):
    r, z, un, vn = gates
    n, z = jnp.tanh(un + jax.nn.sigmoid(r) * vn), jax.nn.sigmoid(z)
    h = n + z * (carry[0] - n)
    return (h,), h

  pointwise, num_gates, num_split, carry_size = {
    "lstm": (lstm_step, 4, 0, 2),
    "gru": (gru_step, 3, 1, 1),
  }[cell_name]

  def init(key, D):
    return init_gates(key, D, H, num_gates)

  def initial_carry(x):
    return (zeros_like_batch(x, H),) * carry_size

  cell = Cell("own", H, init, initial_carry, **additive(pointwise, num_gates, num_split))
  return make_from_cell(cell, xs)


def make_peephole_cell(cell_name, xs, H):
  """Return (apply_fn, params) for a user-defined LSTM whose pointwise function has parameters."""
  if cell_name != "lstm":
    raise KeyError(cell_name)

  def pointwise(params, carry, gates):
    i, f, g, o = gates
    c = jax.nn.sigmoid(f + params["pf"] * carry[1]) * carry[1]
    c = c + jax.nn.sigmoid(i + params["pi"] * carry[1]) * jnp.tanh(g)
    h = jax.nn.sigmoid(o + params["po"] * c) * jnp.tanh(c)
    return (h, c), h

  def init(key, D):
    return init_gates(key, D, H, 4) | {name: jnp.zeros(H) for name in ("pi", "pf", "po")}

  def initial_carry(x):
    return (zeros_like_batch(x, H),) * 2

  cell = Cell("peephole", H, init, initial_carry, **additive(pointwise, 4))
  return make_from_cell(cell, xs)


def make_step_only(cell_name, xs, H):
  """Return (apply_fn, params) for a cell that defines only its step function."""
  return make_from_cell(make_cell(cell_name, H)._replace(pointwise=None, coefficients=None), xs)


def make_cudnn(cell_name, xs, H):
  """Return (apply_fn, params) for NVIDIA's LSTM, called through jax.

  Raises:
    KeyError: cuDNN cannot run this cell on this machine.
  """
  cell = make_cell(cell_name, H)
  params = cell.init(jax.random.key(0), xs.shape[-1])
  if cudnn.why_unavailable(cell, xs):
    raise KeyError(cell_name)

  def apply_fn(params, xs):
    _, ys = cudnn.cudnn(cell, params, xs, None, cell.initial_carry(xs[0]), False)
    return ys

  return apply_fn, params


def make_flax(cell_name, xs, H):
  import flax.linen as nn

  cell_class = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "vanilla": nn.SimpleCell}
  model = nn.RNN(cell_class[cell_name](H), time_major=True)
  return model.apply, model.init(jax.random.key(0), xs)


def make_haiku(cell_name, xs, H):
  import haiku as hk

  core_class = {"lstm": hk.LSTM, "gru": hk.GRU, "vanilla": hk.VanillaRNN}[cell_name]

  def unroll_core(xs):
    core = core_class(H)
    ys, _ = hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))
    return ys

  model = hk.without_apply_rng(hk.transform(unroll_core))
  return model.apply, model.init(jax.random.key(0), xs)


def make_equinox(cell_name, xs, H):
  import equinox as eqx

  cell_class = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[cell_name]
  cell = cell_class(xs.shape[-1], H, key=jax.random.key(0))
  params, static = eqx.partition(cell, eqx.is_array)

  def apply_fn(params, xs):
    batched_cell = jax.vmap(eqx.combine(params, static))
    zeros = jnp.zeros((xs.shape[1], H))

    def step(carry, x):
      carry = batched_cell(x, carry)
      return carry, carry[0] if cell_name == "lstm" else carry

    _, ys = jax.lax.scan(step, (zeros, zeros) if cell_name == "lstm" else zeros, xs)
    return ys

  return apply_fn, params


def make_keras(cell_name, xs, H):
  os.environ["KERAS_BACKEND"] = "jax"
  import keras

  layers = keras.layers
  layer_class = {"lstm": layers.LSTM, "gru": layers.GRU, "vanilla": layers.SimpleRNN}[cell_name]
  layer = layer_class(H, return_sequences=True)
  layer.build((xs.shape[1], xs.shape[0], xs.shape[2]))
  non_trainable = [v.value for v in layer.non_trainable_variables]

  def apply_fn(params, xs):
    # Keras is batch-major.
    ys, _ = layer.stateless_call(params, non_trainable, xs.swapaxes(0, 1))
    return ys.swapaxes(0, 1)

  return apply_fn, [v.value for v in layer.trainable_variables]


JAX_IMPLEMENTATIONS = {
  "rnnjax": make_rnnjax,
  "own cell": make_custom_cell,
  "own peephole": make_peephole_cell,
  "own step": make_step_only,
  "plain scan": functools.partial(make_rnnjax, backend="scan"),
  "cudnn": make_cudnn,
  "flax": make_flax,
  "haiku": make_haiku,
  "equinox": make_equinox,
  "keras": make_keras,
}


def make_torch(cell_name, xs, H):
  """Return two functions without arguments: PyTorch's forward pass; forward and backward pass."""
  import torch

  torch.set_num_threads(os.cpu_count())
  device = "cpu" if jax.default_backend() == "cpu" else "cuda"

  def synchronize():
    if device == "cuda":
      torch.cuda.synchronize()

  layer_class = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "vanilla": torch.nn.RNN}[cell_name]
  layer = layer_class(xs.shape[-1], H).to(device)
  xs = torch.randn(xs.shape, device=device).requires_grad_()

  def forward():
    with torch.no_grad():
      layer(xs)
    synchronize()

  def both():
    layer.zero_grad()
    xs.grad = None
    ys, _ = layer(xs)
    (ys**2).sum().backward()
    synchronize()

  return forward, both
