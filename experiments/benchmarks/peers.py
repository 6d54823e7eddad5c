"""The loop over time as others write it: each peer makes a function of (params, xs) -> ys.

A peer is name -> make(cell, xs, H), which returns the function and its parameters; one that is not
installed raises ImportError when it is made. All compute an LSTM or GRU over xs [T, B, D].
"""

import functools
import os

import jax
import jax.numpy as jnp

from experiments.common.train_config import CELLS
from rnnjax import backend_status, unroll
from rnnjax.cells.base import Cell, additive, init_gates, zeros_like_batch


def make_from_cell(cell, xs, backend="auto"):
  """A cell of ours or of a user as a peer."""
  params = cell.init(jax.random.key(0), xs.shape[-1])
  return lambda params, xs: unroll(cell, params, xs, backend=backend)[1], params


def make_rnnjax(cell_name, xs, H, backend="auto"):
  return make_from_cell(CELLS[cell_name](H), xs, backend)


def make_custom_cell(cell_name, xs, H):
  """A cell as a user writes it, of the form of `additive`."""

  def lstm(params, carry, gates):
    i, f, g, o = gates
    c = jax.nn.sigmoid(f) * carry[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h

  def gru(params, carry, gates):
    r, z, un, vn = gates
    n, z = jnp.tanh(un + jax.nn.sigmoid(r) * vn), jax.nn.sigmoid(z)
    h = n + z * (carry[0] - n)
    return (h,), h

  tick, gates, apart = {"lstm": (lstm, 4, 0), "gru": (gru, 3, 1)}[cell_name]
  made = Cell(
    "own",
    H,
    lambda key, D: init_gates(key, D, H, gates),
    lambda x: (zeros_like_batch(x, H),) * (2 if cell_name == "lstm" else 1),
    **additive(tick, gates, apart),
  )
  return make_from_cell(made, xs)


def make_peephole_cell(cell_name, xs, H):
  """A peephole LSTM as a user writes it, with parameters that its pointwise function reads."""
  if cell_name != "lstm":
    raise KeyError(cell_name)

  def tick(params, carry, gates):
    i, f, g, o = gates
    c = jax.nn.sigmoid(f + params["pf"] * carry[1]) * carry[1]
    c = c + jax.nn.sigmoid(i + params["pi"] * carry[1]) * jnp.tanh(g)
    h = jax.nn.sigmoid(o + params["po"] * c) * jnp.tanh(c)
    return (h, c), h

  def begin(key, D):
    return init_gates(key, D, H, 4) | {name: jnp.zeros(H) for name in ("pi", "pf", "po")}

  made = Cell("peephole", H, begin, lambda x: (zeros_like_batch(x, H),) * 2, **additive(tick, 4))
  return make_from_cell(made, xs)


def make_cudnn(cell_name, xs, H):
  """NVIDIA's LSTM through jax."""
  made = CELLS[cell_name](H)
  if backend_status(made, made.init(jax.random.key(0), xs.shape[-1]), xs)["cudnn"]:
    raise KeyError(cell_name)
  return make_rnnjax(cell_name, xs, H, "cudnn")


def make_step_only(cell_name, xs, H):
  """A cell of which only the step is known."""
  return make_from_cell(CELLS[cell_name](H)._replace(pointwise=None, coefficients=None), xs)


def make_flax(cell_name, xs, H):
  import flax.linen as nn

  made = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "vanilla": nn.SimpleCell}[cell_name]
  net = nn.RNN(made(H), time_major=True)
  return net.apply, net.init(jax.random.key(0), xs)


def make_haiku(cell_name, xs, H):
  import haiku as hk

  def net(xs):
    core = {"lstm": hk.LSTM, "gru": hk.GRU, "vanilla": hk.VanillaRNN}[cell_name](H)
    return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

  net = hk.without_apply_rng(hk.transform(net))
  return net.apply, net.init(jax.random.key(0), xs)


def make_equinox(cell_name, xs, H):
  import equinox as eqx

  made = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[cell_name]
  net = made(xs.shape[-1], H, key=jax.random.key(0))
  params, static = eqx.partition(net, eqx.is_array)

  def run(params, xs):
    step = jax.vmap(eqx.combine(params, static))
    zero = jnp.zeros((xs.shape[1], H))

    def tick(carry, x):
      carry = step(x, carry)
      return carry, carry[0] if cell_name == "lstm" else carry

    return jax.lax.scan(tick, (zero, zero) if cell_name == "lstm" else zero, xs)[1]

  return run, params


def make_keras(cell_name, xs, H):
  os.environ["KERAS_BACKEND"] = "jax"
  import keras

  made = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "vanilla": keras.layers.SimpleRNN}
  layer = made[cell_name](H, return_sequences=True)
  layer.build((xs.shape[1], xs.shape[0], xs.shape[2]))
  rest = [v.value for v in layer.non_trainable_variables]

  def net(params, xs):
    return layer.stateless_call(params, rest, xs.swapaxes(0, 1))[0].swapaxes(0, 1)

  return net, [v.value for v in layer.trainable_variables]


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
  """A function without arguments that runs forward, and one that runs forward and backward."""
  import torch

  torch.set_num_threads(os.cpu_count())
  device = "cpu" if jax.default_backend() == "cpu" else "cuda"
  wait = torch.cuda.synchronize if device == "cuda" else lambda: None
  net = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "vanilla": torch.nn.RNN}[cell_name](
    xs.shape[-1], H
  )
  net, xs = net.to(device), torch.randn(xs.shape, device=device).requires_grad_()

  def forward():
    with torch.no_grad():
      net(xs)
    wait()

  def both():
    net.zero_grad()
    xs.grad = None
    (net(xs)[0] ** 2).sum().backward()
    wait()

  return forward, both
