"""The loop over time as others write it: each peer makes a function of (params, xs) -> ys.

A peer is name -> make(cell, xs, H), which returns the function and its parameters; one that is not
installed raises ImportError when it is made. All compute an LSTM or GRU over xs [T, B, D].
"""

import functools
import os

import jax
import jax.numpy as jnp

from experiments.common.train_config import CELLS
from rnnjax import backends, unroll
from rnnjax.cells.base import Cell, additive, init, zeros


def unrolled(made, xs, backend="auto"):
  """A cell of ours or of a user as a peer."""
  params = made.init(jax.random.key(0), xs.shape[-1])
  return lambda params, xs: unroll(made, params, xs, backend=backend)[1], params


def rnnjax(cell, xs, H, backend="auto"):
  return unrolled(CELLS[cell](H), xs, backend)


def own(cell, xs, H):
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

  tick, gates, apart = {"lstm": (lstm, 4, 0), "gru": (gru, 3, 1)}[cell]
  made = Cell(
    "own",
    H,
    lambda key, D: init(key, D, H, gates),
    lambda x: (zeros(x, H),) * (2 if cell == "lstm" else 1),
    **additive(tick, gates, apart),
  )
  return unrolled(made, xs)


def peephole(cell, xs, H):
  """A peephole LSTM as a user writes it, with parameters that its pointwise function reads."""
  if cell != "lstm":
    raise KeyError(cell)

  def tick(params, carry, gates):
    i, f, g, o = gates
    c = jax.nn.sigmoid(f + params["pf"] * carry[1]) * carry[1]
    c = c + jax.nn.sigmoid(i + params["pi"] * carry[1]) * jnp.tanh(g)
    h = jax.nn.sigmoid(o + params["po"] * c) * jnp.tanh(c)
    return (h, c), h

  def begin(key, D):
    return init(key, D, H, 4) | {name: jnp.zeros(H) for name in ("pi", "pf", "po")}

  made = Cell("peephole", H, begin, lambda x: (zeros(x, H),) * 2, **additive(tick, 4))
  return unrolled(made, xs)


def cudnn(cell, xs, H):
  """NVIDIA's LSTM through jax."""
  made = CELLS[cell](H)
  if backends(made, made.init(jax.random.key(0), xs.shape[-1]), xs)["cudnn"]:
    raise KeyError(cell)
  return rnnjax(cell, xs, H, "cudnn")


def step(cell, xs, H):
  """A cell of which only the step is known."""
  return unrolled(CELLS[cell](H)._replace(pointwise=None, linear=None), xs)


def flax(cell, xs, H):
  import flax.linen as nn

  made = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "vanilla": nn.SimpleCell}[cell]
  net = nn.RNN(made(H), time_major=True)
  return net.apply, net.init(jax.random.key(0), xs)


def haiku(cell, xs, H):
  import haiku as hk

  def net(xs):
    core = {"lstm": hk.LSTM, "gru": hk.GRU, "vanilla": hk.VanillaRNN}[cell](H)
    return hk.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

  net = hk.without_apply_rng(hk.transform(net))
  return net.apply, net.init(jax.random.key(0), xs)


def equinox(cell, xs, H):
  import equinox as eqx

  made = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[cell]
  net = made(xs.shape[-1], H, key=jax.random.key(0))
  params, static = eqx.partition(net, eqx.is_array)

  def run(params, xs):
    step = jax.vmap(eqx.combine(params, static))
    zero = jnp.zeros((xs.shape[1], H))

    def tick(carry, x):
      carry = step(x, carry)
      return carry, carry[0] if cell == "lstm" else carry

    return jax.lax.scan(tick, (zero, zero) if cell == "lstm" else zero, xs)[1]

  return run, params


def keras(cell, xs, H):
  os.environ["KERAS_BACKEND"] = "jax"
  import keras

  made = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU, "vanilla": keras.layers.SimpleRNN}
  layer = made[cell](H, return_sequences=True)
  layer.build((xs.shape[1], xs.shape[0], xs.shape[2]))
  rest = [v.value for v in layer.non_trainable_variables]

  def net(params, xs):
    return layer.stateless_call(params, rest, xs.swapaxes(0, 1))[0].swapaxes(0, 1)

  return net, [v.value for v in layer.trainable_variables]


JAX = {
  "rnnjax": rnnjax,
  "own cell": own,
  "own peephole": peephole,
  "own step": step,
  "plain scan": functools.partial(rnnjax, backend="scan"),
  "cudnn": cudnn,
  "flax": flax,
  "haiku": haiku,
  "equinox": equinox,
  "keras": keras,
}


def torch(cell, xs, H):
  """A function without arguments that runs forward, and one that runs forward and backward."""
  import torch

  torch.set_num_threads(os.cpu_count())
  device = "cpu" if jax.default_backend() == "cpu" else "cuda"
  wait = torch.cuda.synchronize if device == "cuda" else lambda: None
  net = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "vanilla": torch.nn.RNN}[cell](xs.shape[-1], H)
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
